"""Pictures of long prompts with weights, against torch networks that are given the chunks by hand."""

from copy import deepcopy

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_pair import check

import ti_jax
from ti_jax.conditioning import emphasize, encode_chunks, encode_prompts
from ti_jax.errors import UserError

FIRST = " ".join("abcdefgh"[i % 8] for i in range(75))  # a token each: a chunk is full
SECOND = ["in the", "style", "of", "<fox>"]
WEIGHTS = [1.0, 1.4, 1.0, 0.6]
PROMPT = f"{FIRST} in the (style:1.4) of (<fox>:0.6)"
NEGATIVE = "[blue]"


def concept_of(pipeline):
    rng = np.random.default_rng(0)
    vectors = {name: rng.normal(0, 0.3, (2, width)).astype(np.float32) for name, width in pipeline.widths.items()}
    return ti_jax.Concept("<fox>", vectors)


def encode(pipe, name, texts_by_chunk, weights_by_chunk):
    """States of a prompt whose chunks and weights are given, as A1111 does it: (context, pooled output)."""
    tokenizer, encoder = (getattr(pipe, name.replace("text_encoder", kind)) for kind in ("tokenizer", "text_encoder"))
    contexts, pooled = [], []
    for texts, weights in zip(texts_by_chunk, weights_by_chunk, strict=True):
        ids, row = [tokenizer.bos_token_id], [1.0]
        for text, weight in zip(texts, weights, strict=True):
            piece = tokenizer(pipe.maybe_convert_prompt(text, tokenizer), add_special_tokens=False).input_ids
            ids, row = ids + piece, row + [weight] * len(piece)
        ids = [*ids, tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        row += [1.0] * (77 - len(row))
        with torch.no_grad():
            output = encoder(torch.tensor([ids]), output_hidden_states=True)
        sdxl = hasattr(pipe, "text_encoder_2")
        states = output.hidden_states[-2] if sdxl else output.last_hidden_state
        weighted = states * torch.tensor(row)[None, :, None]
        contexts.append(weighted * (states.mean() / weighted.mean()))
        pooled.append(output.text_embeds if name == "text_encoder_2" else None)
    return torch.cat(contexts, dim=1), pooled[0]


def condition(pipe, names, texts, weights):
    contexts, pooled = zip(*(encode(pipe, name, texts, weights) for name in names), strict=True)
    return torch.cat(contexts, dim=-1), pooled[-1]


def by_hand(pipe, pipeline):
    """PyTorch's pipeline that knows the word, and the context and pooled output of the negative and of the prompt."""
    pipe = deepcopy(pipe)
    pipe.set_progress_bar_config(disable=True)
    for name, vectors in concept_of(pipeline).vectors.items():
        tokenizer, encoder = (getattr(pipe, name.replace("text_encoder", k)) for k in ("tokenizer", "text_encoder"))
        state = {"<fox>": torch.tensor(vectors)}
        pipe.load_textual_inversion(state, token="<fox>", tokenizer=tokenizer, text_encoder=encoder)
    wanted = condition(pipe, pipeline.widths, [[FIRST], SECOND], [[1.0], WEIGHTS])
    return pipe, condition(pipe, pipeline.widths, [["blue"], []], [[1 / 1.1], []]), wanted


@pytest.mark.parametrize("twin", ["sd1_twin", "sd2_twin", "sdxl_twin"])
def test_conditions_are_those_of_chunks_by_hand(twin, request):
    pipe, pipeline = request.getfixturevalue(twin)
    vectors = concept_of(pipeline).vectors
    prompts = pipeline.tokenize_chunks([NEGATIVE, PROMPT], {"<fox>": 2}, long_prompts="chunk", emphasis="a1111")
    context, pooled = jax.jit(encode_chunks)(pipeline.networks, prompts, vectors)
    _, *expected = by_hand(pipe, pipeline)
    for row, (their_context, their_pooled) in enumerate(expected):
        check(context[row], their_context[0].numpy(), 1e-4)
        if their_pooled is not None:
            check(pooled[row], their_pooled[0].numpy(), 1e-4)
    assert (pooled is None) == (expected[0][1] is None)


def test_pictures_are_those_of_chunks_by_hand(sd1_twin):
    pipe, pipeline = sd1_twin
    latents = np.random.default_rng(1).normal(size=(1, *pipeline.latent_shape())).astype(np.float32)
    images = ti_jax.generate(
        pipeline,
        PROMPT,
        concepts=[concept_of(pipeline)],
        latents=latents,
        steps=4,
        negative_prompt=NEGATIVE,
        long_prompts="chunk",
        emphasis="a1111",
    )
    pipe, (unwanted, _), (wanted, _) = by_hand(pipe, pipeline)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    (expected,) = pipe(
        prompt_embeds=wanted,
        negative_prompt_embeds=unwanted,
        guidance_scale=5.0,
        num_inference_steps=4,
        latents=torch.tensor(latents).permute(0, 3, 1, 2),
    ).images
    expected = np.asarray(expected)
    assert expected.std() > 10, "a flat picture would hide a difference"
    assert np.abs(images[0].astype(int) - expected.astype(int)).max() <= 2


def test_a_short_prompt_without_weights_is_what_it_is_without_chunks(sd1_twin):
    pipeline = sd1_twin[1]
    networks, vectors = pipeline.networks, concept_of(pipeline).vectors
    expected = jax.jit(encode_prompts)(networks, pipeline.tokenize(["a <fox> (small)"], {"<fox>": 2}), vectors)
    prompts = pipeline.tokenize_chunks(["a <fox> (small)"], {"<fox>": 2}, long_prompts="chunk", emphasis="off")
    np.testing.assert_array_equal(jax.jit(encode_chunks)(networks, prompts, vectors).context, expected.context)


def test_weights_of_one_change_nothing():
    states = jax.random.normal(jax.random.key(0), (2, 5, 3)) + 1
    np.testing.assert_allclose(emphasize(states, jnp.ones((2, 5))), states, rtol=1e-6)


def test_unknown_options(sd1_twin):
    for option in ("long_prompts", "emphasis"):
        with pytest.raises(UserError, match=option):
            ti_jax.generate(sd1_twin[1], "a", **{option: "x"})
