"""A concept as a pytree, and on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from ti_jax import Concept
from ti_jax.errors import UserError


@pytest.fixture
def concept():
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    vectors[0, :2] = np.float32(1e-40), -0.0  # subnormal and signed zero
    return Concept("<Fox>", {"text_encoder": vectors}, {"steps": "7", "name": "füchse"})


def test_only_vectors_are_leaves(concept):
    ((path, leaf),) = jax.tree_util.tree_leaves_with_path(concept)
    assert leaf is concept.vectors["text_encoder"]
    assert jax.tree_util.keystr(path) == ".vectors['text_encoder']"


def test_another_word_or_origin_does_not_compile_again(concept):
    traces = []

    @jax.jit
    def norm(concept):
        traces.append(concept.placeholder)
        return jnp.linalg.norm(concept.vectors["text_encoder"])

    others = [
        Concept("<cat>", concept.vectors, concept.metadata),
        Concept("<Fox>", concept.vectors, {"steps": "8"}),
        Concept("<Fox>", {"text_encoder": concept.vectors["text_encoder"] + 1}),
    ]
    for other in (concept, *others):
        norm(other)
    assert traces == ["<Fox>"]


def test_a_map_keeps_word_and_origin(concept):
    doubled = jax.tree.map(lambda x: 2 * x, concept)
    assert (doubled.placeholder, doubled.metadata) == (concept.placeholder, concept.metadata)
    np.testing.assert_array_equal(doubled.vectors["text_encoder"], 2 * concept.vectors["text_encoder"])
    added = jax.tree.map(jnp.add, concept, Concept("<cat>", concept.vectors))
    assert added.placeholder == "<Fox>"


def test_a_file_gives_back_the_same_bits(concept, tmp_path):
    file = tmp_path / "new" / "fox.safetensors"
    concept.save(file)
    loaded = Concept.load(file)
    assert loaded.placeholder == "<Fox>"
    assert loaded.num_vectors == 3
    assert list(loaded.vectors) == ["text_encoder"]
    assert loaded.vectors["text_encoder"].dtype == np.float32
    assert loaded.vectors["text_encoder"].tobytes() == concept.vectors["text_encoder"].tobytes()
    assert concept.metadata.items() <= loaded.metadata.items()
    assert Concept.load(str(file), token="<vixen>").placeholder == "<vixen>"


def test_saving_what_was_loaded_writes_the_same_file(concept, tmp_path):
    concept.save(tmp_path / "a.safetensors")
    Concept.load(tmp_path / "a.safetensors").save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_loaded_concept_under_another_word_keeps_that_word(concept, tmp_path):
    concept.save(tmp_path / "a.safetensors")
    Concept.load(tmp_path / "a.safetensors", token="<vixen>").save(tmp_path / "b.safetensors")
    assert Concept.load(tmp_path / "b.safetensors").placeholder == "<vixen>"


def test_device_arrays_are_saved_too(concept, tmp_path):
    on_device = jax.tree.map(jnp.asarray, concept)
    on_device.save(tmp_path / "fox.safetensors")
    loaded = Concept.load(tmp_path / "fox.safetensors").vectors["text_encoder"]
    np.testing.assert_array_equal(loaded, on_device.vectors["text_encoder"])


def test_a_failed_save_leaves_the_old_file_and_nothing_else(concept, tmp_path, monkeypatch):
    file = tmp_path / "fox.safetensors"
    concept.save(file)
    before = file.read_bytes()

    def full(self, data):
        with open(self, "wb") as stream:
            stream.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(epath.Path(file)), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        Concept("<cat>", {"text_encoder": np.ones((1, 8), np.float32)}).save(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_other_endings_are_refused(concept, tmp_path):
    with pytest.raises(UserError, match=r"written as \.safetensors"):
        concept.save(tmp_path / "fox.txt")


@pytest.mark.parametrize("token", ["", "  ", "<fox>\n", "\x1b[31m", "x" * 201])
def test_a_word_that_no_prompt_could_hold_is_refused(concept, tmp_path, token):
    concept.save(tmp_path / "fox.safetensors")
    with pytest.raises(UserError, match="no word for a prompt"):
        Concept.load(tmp_path / "fox.safetensors", token=token)


def test_an_address_that_cannot_be_read_is_refused():
    with pytest.raises(UserError, match=r"http://host/fox\.pt cannot be reached where it is"):
        Concept.load("http://host/fox.pt")


def test_home(concept, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    concept.save("~/words/fox.safetensors")
    assert (tmp_path / "words/fox.safetensors").exists()
    assert Concept.load("~/words/fox.safetensors").placeholder == "<Fox>"


def test_a_run_folder_stands_for_its_file(concept, tmp_path):
    concept.save(tmp_path / "run" / "learned_embeds.safetensors")
    assert Concept.load(tmp_path / "run").placeholder == "<Fox>"
    with pytest.raises(UserError, match=r"is a folder without learned_embeds\.safetensors"):
        Concept.load(tmp_path)
