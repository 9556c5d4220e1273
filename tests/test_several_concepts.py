"""Several words in one prompt: the conditions against those of diffusers' pipelines that loaded the same files."""

from copy import deepcopy

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch_pair import check

import ti_jax
from ti_jax.concepts import formats
from ti_jax.conditioning import encode_prompts

WORDS = {"<fox>": 1, "<ink>": 3}
PROMPTS = [
    "a photo of <fox> in the style of <ink>",
    "<ink>,<fox>.",
    "(<fox>)<fox>!<ink>",
    "<ink> <ink> <fox> and the <fox>'s <ink>",
    "a fox, no word at all",
]
ENCODE = jax.jit(encode_prompts)


@pytest.fixture(scope="module", params=["sd1_twin", "sd2_twin", "sdxl_twin"])
def pair(request, tmp_path_factory):
    """A pipeline of PyTorch that has loaded the words' files, ours, and the vectors that we read from these files."""
    pipe, pipeline = request.getfixturevalue(request.param)
    pipe, folder, rng = deepcopy(pipe), tmp_path_factory.mktemp("words"), np.random.default_rng(0)
    for word, count in WORDS.items():
        vectors = {
            name: rng.normal(0, 0.3, (count, width)).astype(np.float32) for name, width in pipeline.widths.items()
        }
        file = folder / f"{word}.safetensors"
        ti_jax.Concept(word, vectors).save(file)
        if len(vectors) == 1:
            pipe.load_textual_inversion(file)
            continue
        state = load_file(file)
        for key, number in (("clip_l", ""), ("clip_g", "_2")):
            tokenizer, encoder = getattr(pipe, f"tokenizer{number}"), getattr(pipe, f"text_encoder{number}")
            pipe.load_textual_inversion(state[key], token=word, tokenizer=tokenizer, text_encoder=encoder)
    concepts = [concept for word in WORDS for concept in formats.read_all(folder / f"{word}.safetensors")]
    vectors = {name: np.concatenate([concept.vectors[name] for concept in concepts]) for name in pipeline.widths}
    return pipe, pipeline, vectors


def check_prompts(pair, prompts):
    pipe, pipeline, vectors = pair
    ours = ENCODE(pipeline.networks, pipeline.tokenize(prompts, WORDS), vectors)
    with torch.no_grad():
        theirs = pipe.encode_prompt(
            prompt=prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    check(ours.context, theirs[0].numpy(), 1e-4)
    if ours.pooled is not None:
        check(ours.pooled, theirs[2].numpy(), 1e-4)


def test_words_anywhere(pair):
    check_prompts(pair, PROMPTS)


PIECES = st.sampled_from([*WORDS, "a ", "photo", ", ", ".", "(", ")", "!", " of ", "'s", " fox", "-", '"'])


@settings(max_examples=20, deadline=None)
@given(prompts=st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=5, max_size=5))
def test_random_prompts(pair, prompts):
    check_prompts(pair, prompts)
