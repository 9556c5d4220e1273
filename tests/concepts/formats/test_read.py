"""Files of every program are read to the same vectors."""

import base64
import json
import sys

import numpy as np
import pytest
import torch
from embedding_files import LAYOUTS, LORA, ONE, OTHER, TWO, VECTORS, WIDE, a1111, official, save
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ti_jax import Concept
from ti_jax.concepts import formats
from ti_jax.errors import UserError


def assert_vectors(concept, expected):
    assert list(concept.vectors) == list(expected)
    for encoder, vectors in expected.items():
        assert concept.vectors[encoder].dtype == np.float32
        np.testing.assert_array_equal(concept.vectors[encoder], vectors.float().numpy())


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(name, tmp_path):
    content, word, expected = LAYOUTS[name]
    save(content, tmp_path / name)
    concept = Concept.load(tmp_path / name)
    assert concept.placeholder == word
    assert_vectors(concept, expected)
    assert Concept.load(tmp_path / name, token="<vixen>").placeholder == "<vixen>"


def test_a_file_is_known_by_its_content(tmp_path):
    save({"<fox>": VECTORS}, tmp_path / "fox.safetensors")
    save({"<fox>": VECTORS}, tmp_path / "fox.pt")
    for name, new in (
        ("fox.safetensors", "fox.bin"),
        ("fox.pt", "fox.embedding"),
        ("fox.embedding", "fox.safetensors"),
    ):
        assert_vectors(Concept.load((tmp_path / name).rename(tmp_path / new)), ONE)


def test_a_repository_of_the_concepts_library(tmp_path, monkeypatch):
    save({"<fox>": VECTORS}, tmp_path / "learned_embeds.bin")
    hub = {"sd-concepts-library/fox": tmp_path}
    monkeypatch.setattr(sys.modules["ti_jax.concepts.formats.read"], "resolve_concept", hub.__getitem__)
    assert_vectors(Concept.load("sd-concepts-library/fox"), ONE)
    assert_vectors(Concept.load(tmp_path), ONE)
    with pytest.raises(UserError, match=r"there is no embedding file runs/fox\.bin"):
        Concept.load("runs/fox.bin")


def test_numbers_of_numpy(tmp_path):
    save({**a1111({"*": VECTORS}, name="fox"), "step": np.int64(3), "loss": np.float64(0.1)}, tmp_path / "fox.pt")
    assert_vectors(Concept.load(tmp_path / "fox.pt"), ONE)


def test_files_of_before_torch_1_6_are_read(tmp_path):
    content = a1111({"*": torch.nn.Parameter(VECTORS)}, name="fox")
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_vectors(Concept.load(tmp_path / "old.pt"), ONE)


SEVERAL = {
    "official.pt": (official(**{"*": VECTORS, "<fox>": OTHER}), ["*", "<fox>"]),
    "a1111.pt": (a1111({"*": VECTORS, "<fox>": OTHER}, name="both"), ["*", "<fox>"]),
    "words.safetensors": ({"<Cat>": VECTORS, "<fox>": OTHER}, ["<Cat>", "<fox>"]),
    "bundle.safetensors": ({**LORA, "bundle_emb.cat.emp_params": VECTORS, "bundle_emb.<fox>.emp_params": OTHER}, None),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_concepts_in_a_file(name, tmp_path):
    content, words = SEVERAL[name]
    save(content, tmp_path / name)
    concepts = {concept.placeholder: concept for concept in formats.read_all(tmp_path / name)}
    if words:
        assert list(concepts) == words
    assert_vectors(concepts["<fox>"], {"text_encoder": OTHER})
    assert_vectors(Concept.load(tmp_path / name, token="<FOX>"), {"text_encoder": OTHER})
    for token in (None, "<wolf>"):
        with pytest.raises(UserError, match=r"holds several concepts .*<fox>.*--token"):
            Concept.load(tmp_path / name, token=token)


def test_words_inside_a_lora(tmp_path):
    """cloneofsimo's: its metadata tells which tensors are words."""
    content = {**LORA, "<fox>": VECTORS[0].clone(), "<cat>": OTHER[0].clone()}
    save(content, tmp_path / "lora.safetensors", {"<fox>": "<embed>", "<cat>": "<embed>", "unet": "[]"})
    concepts = formats.read_all(tmp_path / "lora.safetensors")
    assert sorted(concept.placeholder for concept in concepts) == ["<cat>", "<fox>"]
    save({"<fox>": VECTORS[0].clone()}, tmp_path / "one.safetensors", {"<fox>": "<embed>"})
    assert Concept.load(tmp_path / "one.safetensors").placeholder == "<fox>"


@pytest.mark.parametrize(("steps", "suffix"), [("", "safetensors"), ("-steps-500", "safetensors"), ("", "bin")])
def test_the_two_files_of_diffusers_sdxl_script(steps, suffix, tmp_path):
    first, second = (tmp_path / f"learned_embeds{number}{steps}.{suffix}" for number in ("", "_2"))
    save({"<fox>": VECTORS}, first)
    assert_vectors(Concept.load(first), ONE)
    save({"<fox>": WIDE}, second)
    for file in (first, second):
        concept = Concept.load(file)
        assert concept.placeholder == "<fox>"
        assert_vectors(concept, TWO)
    save({"<cat>": WIDE}, second)
    assert_vectors(Concept.load(first), ONE)
    save({"clip_l": VECTORS, "clip_g": WIDE}, second)
    assert_vectors(Concept.load(second), TWO)
    save({"clip_l": OTHER, "clip_g": WIDE}, first)
    assert_vectors(Concept.load(second), TWO)
    save({"<fox>": VECTORS, "<cat>": OTHER}, first)
    assert {concept.placeholder for concept in formats.read_all(first)} == {"<fox>", "<cat>"}


def test_a_picture_of_a1111(tmp_path):
    data = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": {"TORCHTENSOR": VECTORS.numpy().tolist()}},
        "name": "my style",
        "step": 100,
        "sd_checkpoint": None,
        "sd_checkpoint_name": "anything",
    }
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(data).encode()).decode("ascii"))
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png", pnginfo=info)
    concept = Concept.load(tmp_path / "x.png")
    assert concept.placeholder == "my style"
    assert concept.metadata == {"name": "my style", "step": "100", "sd_checkpoint_name": "anything"}
    assert_vectors(concept, ONE)


def test_where_the_word_comes_from(tmp_path):
    file = tmp_path / "file.safetensors"
    for metadata, word in (({}, "file"), ({"name": "fox"}, "fox"), ({"name": "fox", "placeholder": "<f>"}, "<f>")):
        save({"emb_params": VECTORS}, file, metadata)
        assert Concept.load(file).placeholder == word
    save({"<fox>": VECTORS}, file, {"name": "other"})
    assert Concept.load(file).placeholder == "<fox>"


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    torch.save({"<fox>": VECTORS}, tmp_path / "fox.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r'pip install "ti-jax\[torch\]"'):
        Concept.load(tmp_path / "fox.bin")
    with pytest.raises(UserError, match=r'pip install "ti-jax\[torch\]"'):
        Concept("<fox>", {"text_encoder": VECTORS.numpy()}).save(tmp_path / "fox.pt")
