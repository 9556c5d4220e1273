"""Tokenizers as files: today's one, the old pair, and what is missing or damaged."""

import shutil

import pytest
import transformers
from twins import END, START, write_tokenizer

from ti_jax.errors import UserError
from ti_jax.weights.hub import resolve
from ti_jax.weights.tokenizer import clip_tokenizer, load_tokenizer

TEXT = "A photo of 2 foxes, at night! é🦊"


def test_the_old_pair_and_the_new_file_are_the_same(tmp_path):
    write_tokenizer(tmp_path / "old", padding="!")
    transformers.CLIPTokenizer.from_pretrained(tmp_path / "old").save_pretrained(tmp_path / "new")
    (tmp_path / "new/vocab.json").unlink(missing_ok=True)
    (tmp_path / "new/merges.txt").unlink(missing_ok=True)
    old, new = load_tokenizer(tmp_path / "old"), load_tokenizer(tmp_path / "new")
    assert old(TEXT).input_ids == new(TEXT).input_ids
    assert old.get_vocab() == new.get_vocab()
    assert old.pad_token_id == new.pad_token_id == 0
    assert old.model_max_length == new.model_max_length == 77


def test_without_settings(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer(TEXT).input_ids
    assert (ids[0], ids[-1]) == tuple(tokenizer.convert_tokens_to_ids([START, END]))
    assert END not in tokenizer.convert_ids_to_tokens(ids[1:-1])  # every letter is known


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_half_a_pair(tmp_path, name):
    write_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing, and so is tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", ""])
def test_damaged(tmp_path, content):
    shutil.copytree(resolve("tiny") / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer/tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="holds a damaged tokenizer"):
        load_tokenizer(tmp_path / "tokenizer")


def test_the_one_that_ships():
    """Ids that OpenAI's own tokenizer gives."""
    tokenizer = clip_tokenizer(padding=END)
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer(TEXT).input_ids == [49406, 320, 1125, 539, 273, 24145, 267, 536, 930, 256, 4166, 6040, 488, 49407]
    assert (tokenizer.pad_token_id, tokenizer.model_max_length) == (49407, 77)
    assert clip_tokenizer(padding="!").pad_token_id == 0


def test_the_one_that_ships_is_the_one_that_transformers_reads(tmp_path):
    tokenizer = clip_tokenizer(padding=END)
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again(TEXT).input_ids == tokenizer(TEXT).input_ids
