"""Prompts to ids, against transformers' added tokens, diffusers' multi-vector words, and where CLIP pools."""

import copy
import logging
import re

import numpy as np
import pytest
import torch
import transformers
from diffusers.loaders import TextualInversionLoaderMixin
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from twins import write_tokenizer

from ti_jax.concepts.prompts import tokenize
from ti_jax.errors import UserError
from ti_jax.weights.hub import resolve

MAX_LENGTH = 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A vocabulary with holes, whose unknown letters are its end token, and one with all bytes that pads with `!`."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, padding="!")
    return {"bundled": resolve("tiny") / "tokenizer", "bytes": folder}


@pytest.fixture(scope="module", params=["bundled", "bytes"])
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(scope="module")
def tokenizer(folder):
    return transformers.CLIPTokenizer.from_pretrained(folder)


class Reference:
    """What diffusers does: words are added to a tokenizer, those of several vectors as `<fox> <fox>_1 ...`."""

    def __init__(self, tokenizer, placeholders):
        self.tokenizer = copy.deepcopy(tokenizer)
        self.first_added = len(self.tokenizer)
        for word, count in placeholders.items():
            self.tokenizer.add_tokens([word, *(f"{word}_{i}" for i in range(1, count))])

    def __call__(self, prompt, max_length=MAX_LENGTH):
        text = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, self.tokenizer)
        return self.tokenizer(text, padding="max_length", max_length=max_length, truncation=True).input_ids


def added_ids(tokens, first_added):
    """Ours with the ids that the vectors would have as added tokens."""
    return np.where(tokens.vector_index >= 0, tokens.vector_index + first_added, tokens.ids)


CHUNKS = st.one_of(
    st.sampled_from(
        ["a photo of ", "foxtrot", ", ", "'s ", ".", "(", "\n", "  ", "STRASSE", "<", ">", "12", "é", "ΑΣ"]
    ),
    st.text(max_size=6),
)


def prompts(placeholders):
    """Random text around the words, which stand free, in punctuation, repeated and in another case."""

    def spelled(word):
        # diffusers finds a word of several vectors in its own case only.
        other = st.sampled_from([word, word.upper(), word.lower(), word.swapcase()])
        return st.just(word) if placeholders[word] > 1 else other.filter(lambda text: text.lower() == word.lower())

    pieces = st.one_of(CHUNKS, st.sampled_from(list(placeholders)).flatmap(spelled))
    return st.lists(pieces, max_size=7).map("".join)


@st.composite
def cases(draw):
    """Words with their numbers of vectors, and a prompt. No word is part of another; see below for those."""
    words = draw(
        st.lists(st.sampled_from(["<fox>", "<Cat-Toy>", "<straße>", "[v]"]), min_size=1, max_size=3, unique=True)
    )
    # A word with capitals is never expanded by diffusers.
    placeholders = {word: draw(st.integers(1, 3)) if word.islower() else 1 for word in words}
    return placeholders, draw(prompts(placeholders))


@settings(max_examples=100, deadline=None)
@given(case=cases())
@example(({"<fox>": 1}, "<fox>\u0338 b"))  # composes to another sign
@example(({"<fox>": 1}, "<foſ> İ<FOX>Σ"))
@example(({"<é>": 1}, "a <e\u0301> <é>"))
@example(({"<fox>": 3, "[v]": 2}, "[v]<fox><fox>,[v]. <fox>"))
@example(({"<fox>": 1}, ""))
def test_ids_equal_those_of_added_tokens(tokenizer, case):
    placeholders, prompt = case
    assume(not re.search(r"_\d", prompt))  # what a user writes is no second vector
    assume("<|" not in prompt)
    reference = Reference(tokenizer, placeholders)
    length = 200
    expected = reference(prompt, length)
    tokens = tokenize([prompt], tokenizer, placeholders, max_length=length)
    assert added_ids(tokens, reference.first_added)[0].tolist() == expected
    assert len(tokenizer) == reference.first_added


@pytest.mark.parametrize("saved", [{"<fox>": 3}, {"[v]": 2, "<fox>": 1}], ids=str)
def test_words_that_were_saved_into_a_model(tokenizer, saved):
    reference, prompt = Reference(tokenizer, saved), "a <fox>, [v] <fox>"
    ids = tokenize([prompt], reference.tokenizer, {}, max_length=MAX_LENGTH).ids[0]
    assert ids.tolist() == reference(prompt)


@pytest.mark.parametrize(
    ("placeholders", "prompt"),
    [
        ({"<fox>": 1, "<fox>x": 1}, "<fox>x <fox> x<fox>x, <fox>"),
        ({"<fox>x": 1, "<fox>": 1}, "<fox>x <fox> x<fox>x, <fox>"),
        ({"<fox>": 1, "<fox>-toy": 1}, "a <fox>-toy, a <fox>-to"),
        ({"a<b>": 1, "<b>c": 1}, "a<b>c a <b>c"),
    ],
)
def test_the_longest_word_is_found_first(tokenizer, placeholders, prompt):
    reference = Reference(tokenizer, placeholders)
    tokens = tokenize([prompt], tokenizer, placeholders, max_length=MAX_LENGTH)
    assert added_ids(tokens, reference.first_added)[0].tolist() == reference(prompt)


def test_a_second_vector_is_no_other_word(tokenizer):
    """A word called `<fox>_1` is a concept of its own here, whatever the number of vectors of `<fox>`."""
    tokens = tokenize(["<fox>_1 <fox>"], tokenizer, {"<fox>": 2, "<fox>_1": 1}, max_length=6)
    assert tokens.vector_index.tolist() == [[-1, 2, 0, 1, -1, -1]]


@pytest.mark.parametrize(
    ("prompt", "found"),
    [("foxtrot", 0), ("a fox.", 1), ("firefox", 0), ("Fox's fox-like", 2), ("fox_1 fox2 foxé", 0), ("(fox),fox", 2)],
)
def test_a_bare_word_is_not_found_in_another(tokenizer, prompt, found):
    tokens = tokenize([prompt], tokenizer, {"fox": 1}, max_length=MAX_LENGTH)
    assert (tokens.vector_index >= 0).sum() == found


def test_without_placeholders(tokenizer):
    prompts = ["a photo, of <fox>", ""]
    tokens = tokenize(prompts, tokenizer, {}, max_length=MAX_LENGTH)
    expected = tokenizer(prompts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="np")
    assert (tokens.ids == expected.input_ids).all()
    assert (tokens.vector_index == -1).all()
    assert [array.dtype for array in tokens] == [np.int32] * 3


@pytest.fixture(scope="module", params=[2, None], ids=["largest", "first"])
def encoder(request, tokenizer):
    """PyTorch's encoder with room for added tokens, of a config from before and after the end token's id was right."""
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer) + 16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=MAX_LENGTH,
        eos_token_id=request.param or tokenizer.eos_token_id,
    )
    return transformers.CLIPTextModel(config).eval()


@pytest.mark.parametrize("placeholders", [{}, {"<fox>": 1}, {"<fox>": 3}, {"[v]": 2, "<fox>": 2}], ids=str)
def test_pool_index_is_where_transformers_pools(tokenizer, encoder, placeholders):
    prompts = ["<fox> on the moon", "a [v] and a <fox>, a <fox> and a [v]", "a photo", "", "zebra! \u2603 zebra"]
    reference = Reference(tokenizer, placeholders)
    tokens = tokenize(prompts, tokenizer, placeholders, max_length=MAX_LENGTH, eos_token_id=encoder.config.eos_token_id)
    with torch.no_grad():
        output = encoder(torch.tensor([reference(prompt) for prompt in prompts]))
    pooled = output.last_hidden_state[range(len(prompts)), tokens.pool_index.tolist()]
    torch.testing.assert_close(pooled, output.pooler_output, rtol=0, atol=0)


def test_the_end_is_cut_off_with_a_warning(tokenizer, caplog):
    prompt = "<fox> " + "photo of " * 20
    with caplog.at_level(logging.WARNING):
        tokens = tokenize([prompt], tokenizer, {"<fox>": 2}, max_length=MAX_LENGTH)
    reference = Reference(tokenizer, {"<fox>": 2})
    assert added_ids(tokens, reference.first_added)[0].tolist() == reference(prompt)
    kept = " ".join(["photo", "of"] * 14)
    (record,) = (record for record in caplog.records if record.name == "ti_jax.concepts.prompts")
    assert f"at {MAX_LENGTH} tokens" in record.getMessage()
    assert prompt.strip() == f"<fox> {kept} " + re.findall("'(.*)'", record.getMessage())[0].strip()


def test_a_prompt_that_just_fits_is_not_cut(tokenizer, caplog):
    tokenize(["<fox>" + " photo" * 28], tokenizer, {"<fox>": 2}, max_length=MAX_LENGTH, overflow="error")
    assert not caplog.records


def test_too_long_a_prompt_is_an_error_where_asked(tokenizer):
    with pytest.raises(UserError, match="has 33 tokens and the model takes 32"):
        tokenize(["<fox>" + " photo" * 29], tokenizer, {"<fox>": 2}, max_length=MAX_LENGTH, overflow="error")


@pytest.mark.parametrize("overflow", ["warn", "error"])
@pytest.mark.parametrize("before", [29, 30, 50])
def test_a_placeholder_is_never_cut_off(tokenizer, overflow, before):
    prompt = "photo " * before + "<fox>"
    with pytest.raises(UserError, match=f"<fox> is cut off in .* that has {before + 4} tokens"):
        tokenize([prompt], tokenizer, {"<fox>": 2}, max_length=MAX_LENGTH, overflow=overflow)
