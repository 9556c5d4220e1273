"""Where a new word starts, and which words are refused."""

import jax
import numpy as np
import pytest
from etils import epath
from etils.epath import register
from transformers import CLIPTokenizer

from ti_jax import Concept
from ti_jax.concepts import formats
from ti_jax.concepts.initialization import check_placeholder, initial_vectors, is_path
from ti_jax.errors import UserError
from ti_jax.weights.hub import resolve

WIDTH = 6


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(resolve("tiny") / "tokenizer")


@pytest.fixture(scope="module")
def table(tokenizer):
    rng = np.random.default_rng(0)
    return rng.normal(3.0, 0.5, size=(len(tokenizer), WIDTH)).astype(np.float32)


@pytest.fixture
def start(table, tokenizer):
    """`initial_vectors` of the small vocabulary."""

    def start(initializer, num_vectors=None, seed=0):
        return initial_vectors(initializer, num_vectors, table, tokenizer, jax.random.key(seed))

    return start


def _rows(tokenizer, table, words):
    return table[tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words])]


def test_a_word_is_one_vector(start, tokenizer, table):
    np.testing.assert_array_equal(start("fox"), _rows(tokenizer, table, ["fox"]))
    np.testing.assert_array_equal(start(" FOX "), start("fox"))


def test_a_phrase_is_as_many_vectors_as_tokens(start, tokenizer, table):
    np.testing.assert_array_equal(start("red fox"), _rows(tokenizer, table, ["red", "fox"]))


def test_a_phrase_is_repeated_in_turn(start, tokenizer, table):
    expected = _rows(tokenizer, table, ["red", "fox", "red", "fox", "red"])
    np.testing.assert_array_equal(start("red fox", 5), expected)


def test_too_many_tokens_are_printed(start):
    with pytest.raises(UserError, match=r"has 3 tokens \('a</w>', 'red</w>', 'fox</w>'\) for 2 vector"):
        start("a red fox", 2)


@pytest.mark.parametrize("word", ["", "  ", "<|endoftext|>"])
def test_what_cannot_be_spelt_is_refused(start, word):
    with pytest.raises(UserError, match="no token in the vocabulary"):
        start(word)


def test_random_has_the_statistics_of_the_vocabulary(start, table):
    draws = start("random", 20_000)
    assert draws.dtype == np.float32
    np.testing.assert_allclose(draws.mean(axis=0), table.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(draws.std(axis=0), table.std(axis=0), rtol=0.03)
    assert start("random").shape == (1, WIDTH)
    np.testing.assert_array_equal(start("random", 3), start("random", 3))
    assert not np.array_equal(start("random", 3), start("random", 3, seed=1))


@pytest.fixture
def file(tmp_path):
    vectors = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
    path = tmp_path / "fox.safetensors"
    Concept("<fox>", {"text_encoder": vectors}).save(path)
    return str(path), vectors


@pytest.mark.parametrize("num_vectors", [None, 2])
def test_going_on_from_a_file(start, file, num_vectors):
    np.testing.assert_array_equal(start(file[0], num_vectors), file[1])


def test_going_on_from_a_run_folder(start, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Concept.load(file[0]).save("runs/fox/learned_embeds.safetensors")
    for folder in ("runs/fox", "runs/fox/", str(tmp_path / "runs/fox")):
        np.testing.assert_array_equal(start(folder), file[1])
    with pytest.raises(UserError, match="runs is a folder without learned_embeds"):
        start("./runs")


def test_a_word_is_no_folder_of_that_name(start, tmp_path, monkeypatch):
    word = start("fox")
    monkeypatch.chdir(tmp_path)
    Concept("<fox>", {"text_encoder": np.ones((1, WIDTH), np.float32)}).save("fox/learned_embeds.safetensors")
    np.testing.assert_array_equal(start("fox"), word)


def test_going_on_from_a_remote_file(start, file, monkeypatch):
    """A bucket that is known to epath alone."""
    folder = epath.Path(file[0]).parent
    bucket = {"test://": lambda path: folder / path.removeprefix("test://")}
    monkeypatch.setattr(register, "_URI_PREFIXES_TO_CLS", bucket)
    Concept.load(file[0]).save(folder / "runs/fox/learned_embeds.safetensors")
    for path in ("test://fox.safetensors", "test://runs/fox"):
        np.testing.assert_array_equal(start(path), file[1])
    with pytest.raises(UserError, match=r"there is no embedding file .*gone\.pt"):
        start("test://gone.pt")


def test_another_number_of_vectors_than_the_file_has_is_refused(start, file):
    with pytest.raises(UserError, match="has 2 vectors, not the 3 asked for"):
        start(file[0], 3)


def test_vectors_of_another_width_are_refused(start, tmp_path):
    Concept("<fox>", {"text_encoder": np.ones((1, WIDTH + 1), np.float32)}).save(tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match=r"have width 7, this model's 6"):
        start(str(tmp_path / "wide.safetensors"))


def test_a_file_of_several_words_is_refused(start, tmp_path):
    words = [Concept(word, {"text_encoder": np.ones((1, WIDTH), np.float32)}) for word in ("<fox>", "<cat>")]
    formats.write(words, tmp_path / "both.pt", to="official")
    with pytest.raises(UserError, match="several concepts: write the one to begin with by ti-jax convert --token"):
        start(str(tmp_path / "both.pt"))


def test_a_missing_file_is_named(start, tmp_path):
    for name in ("gone.safetensors", "GONE.PT", "runs/gone"):
        with pytest.raises(UserError, match=f"there is no .*{name}"):
            start(str(tmp_path / name))
    assert not is_path("black and/or white")


@pytest.mark.parametrize("word", ["<fox>", "sks-fox", "<my-fox>", "*fox*"])
def test_new_words_pass(tokenizer, word):
    check_placeholder(word, tokenizer)


@pytest.mark.parametrize("word", ["fox", "FOX", "a"])
def test_words_of_the_vocabulary_are_refused(tokenizer, word):
    with pytest.raises(UserError, match=f"{word!r} is a word of the vocabulary: mark it as new, such as <{word}>"):
        check_placeholder(word, tokenizer)


@pytest.mark.parametrize("word", ["", " ", "my fox", "<my\nfox>", "<fox\x07>", f"<{'x' * 200}>"])
def test_a_placeholder_is_one_word(tokenizer, word):
    with pytest.raises(UserError, match="must be one word"):
        check_placeholder(word, tokenizer)


@pytest.mark.parametrize("word", ["<|endoftext|>", "<|startoftext|>"])
def test_the_tokenizers_own_marks_are_refused(tokenizer, word):
    with pytest.raises(UserError):
        check_placeholder(word, tokenizer)
