"""Long prompts in chunks: hand-worked cases, and what holds for any prompt."""

import itertools

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import write_tokenizer

from ti_jax.concepts.chunks import tokenize_chunks
from ti_jax.concepts.prompts import tokenize
from ti_jax.errors import UserError

LENGTH = 32
ROOM = LENGTH - 2
PLACEHOLDERS = {"<fox>": 1, "<ink>": 4}


@pytest.fixture(scope="module", params=["!", "<|endoftext|>"], ids=["pads with !", "pads with its end"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, padding=request.param)
    return transformers.CLIPTokenizer.from_pretrained(folder)


def chunks(tokenizer, *prompts, placeholders=PLACEHOLDERS, **options):
    options = {"max_length": LENGTH, "long_prompts": "chunk", "emphasis": "a1111", **options}
    return tokenize_chunks(prompts, tokenizer, placeholders, **options)


def inner(tokenizer, tokens, row=0):
    """Ids between begin and end, a chunk each; a placeholder's are -1 - its vector."""
    lists = []
    for ids, index in zip(tokens.ids[row], tokens.vector_index[row], strict=True):
        marked = np.where(index >= 0, -1 - index, ids).tolist()
        assert marked[0] == tokenizer.bos_token_id
        end = marked.index(tokenizer.eos_token_id, 1)
        assert set(marked[end + 1 :]) <= {tokenizer.pad_token_id}
        lists.append(marked[1:end])
    return lists


def words(tokenizer, count, text="a"):
    """As many tokens of one letter."""
    assert len(tokenizer(text, add_special_tokens=False).input_ids) == 1
    return " ".join([text] * count)


@pytest.mark.parametrize("emphasis", ["off", "a1111"])
@pytest.mark.parametrize("long_prompts", ["cut", "chunk"])
def test_a_short_prompt_is_what_it_is_without_chunks(tokenizer, long_prompts, emphasis):
    prompts = ["a <fox>, in the style of <INK>.", "", words(tokenizer, ROOM)]
    tokens, weights = chunks(tokenizer, *prompts, long_prompts=long_prompts, emphasis=emphasis)
    expected = tokenize(prompts, tokenizer, PLACEHOLDERS, max_length=LENGTH)
    for ours, theirs in zip(tokens, expected, strict=True):
        np.testing.assert_array_equal(ours[:, 0], theirs)
    assert tokens.ids.shape == (3, 1, LENGTH)
    assert (weights is None) if emphasis == "off" else (weights == 1).all()


def test_a_long_prompt_goes_on_in_the_next_chunk(tokenizer):
    prompt = " ".join("abcdefgh"[i % 8] for i in range(2 * ROOM + 5))
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    tokens, _ = chunks(tokenizer, prompt, "b")
    assert inner(tokenizer, tokens) == [ids[:ROOM], ids[ROOM : 2 * ROOM], ids[2 * ROOM :]]
    b = tokenizer("b", add_special_tokens=False).input_ids
    assert inner(tokenizer, tokens, 1) == [b, [], []]


def test_what_follows_a_near_comma_goes_along(tokenizer):
    a, comma, b = (tokenizer(text, add_special_tokens=False).input_ids[0] for text in ("a", ",", "b"))
    near = f"{words(tokenizer, 20)}, {words(tokenizer, 15, 'b')}"
    assert inner(tokenizer, chunks(tokenizer, near)[0]) == [[a] * 20 + [comma], [b] * 15]
    far = f"a, {words(tokenizer, 40, 'b')}"
    assert inner(tokenizer, chunks(tokenizer, far)[0]) == [[a, comma] + [b] * 28, [b] * 12]
    exact = f"{words(tokenizer, 29)}, {words(tokenizer, 3, 'b')}"
    assert inner(tokenizer, chunks(tokenizer, exact)[0]) == [[a] * 29 + [comma], [b] * 3]
    after = f"{words(tokenizer, 30)}, b"
    assert inner(tokenizer, chunks(tokenizer, after)[0]) == [[a] * 30, [comma, b]]


def test_the_vectors_of_a_word_stay_together(tokenizer):
    a = tokenizer("a", add_special_tokens=False).input_ids[0]
    ink = [-2, -3, -4, -5]
    tokens, _ = chunks(tokenizer, f"{words(tokenizer, 27)} <ink>")
    assert inner(tokenizer, tokens) == [[a] * 27, ink]
    tokens, _ = chunks(tokenizer, f"{words(tokenizer, 26)} <ink> <ink>")
    assert inner(tokenizer, tokens) == [[a] * 26 + ink, ink]
    with pytest.raises(UserError, match="does not fit into a chunk"):
        chunks(tokenizer, "<ink>", placeholders={"<ink>": ROOM + 1})


def test_break(tokenizer):
    a, b = (tokenizer(text, add_special_tokens=False).input_ids[0] for text in "ab")
    assert inner(tokenizer, chunks(tokenizer, "a BREAK b BREAK")[0]) == [[a], [b]]
    assert inner(tokenizer, chunks(tokenizer, "BREAK a")[0]) == [[], [a]]


def test_weights_are_of_their_tokens(tokenizer):
    tokens, weights = chunks(tokenizer, "a (b:1.5) (<ink>:0.5) c", "a (b:2)", long_prompts="cut")
    assert inner(tokenizer, tokens)[0][2:6] == [-2, -3, -4, -5]
    np.testing.assert_allclose(weights[0, 0, :9], [1, 1, 1.5, 0.5, 0.5, 0.5, 0.5, 1, 1])
    assert (weights[0, 0, 9:] == 1).all()
    np.testing.assert_allclose(weights[1, 0, :4], [1, 1, 2, 1])


def test_the_rest_of_a_cut_prompt_is_named(tokenizer, caplog):
    tokens, weights = chunks(tokenizer, f"({words(tokenizer, ROOM)}:1.5) b", long_prompts="cut")
    assert tokens.ids.shape == weights.shape == (1, 1, LENGTH)
    assert "cut off" in caplog.text
    caplog.clear()
    chunks(tokenizer, "a BREAK b", long_prompts="cut")
    assert "BREAK begins no chunk in 'a BREAK b'" in caplog.text
    with pytest.raises(UserError, match="<fox> is cut off"):
        chunks(tokenizer, f"{words(tokenizer, ROOM)} <fox>", long_prompts="cut")


@pytest.mark.parametrize("option", ["long_prompts", "emphasis"])
def test_unknown_options(tokenizer, option):
    with pytest.raises(UserError, match=f"{option} = 'x'"):
        chunks(tokenizer, "a", **{option: "x"})


PIECES = ["a", "photo", ",", "<fox>", "<ink>", "(b:1.5)", "[c]", "(", ")", "BREAK", "."]


@settings(max_examples=50, deadline=None)
@given(prompt=st.lists(st.sampled_from(PIECES), max_size=150).map(" ".join))
def test_nothing_is_lost(tokenizer, prompt):
    tokens, weights = chunks(tokenizer, prompt)
    assert weights.shape == tokens.ids.shape
    assert tokens.pool_index.shape == tokens.ids.shape[:2]
    unbroken = prompt.replace(" BREAK", "").replace("BREAK ", "").replace("BREAK", "")
    whole, _ = chunks(tokenizer, unbroken, max_length=1000, long_prompts="cut")
    assert list(itertools.chain(*inner(tokenizer, tokens))) == inner(tokenizer, whole)[0]
