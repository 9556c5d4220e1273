"""Pictures of prompts that may hold learned words."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from ti_jax.concepts.concept import Concept
from ti_jax.concepts.prompts import TokenizedPrompts, tokenize
from ti_jax.conditioning import encode_prompts
from ti_jax.diffusion.plan import Plan, plan
from ti_jax.diffusion.samplers import sample
from ti_jax.errors import UserError
from ti_jax.pipeline import Pipeline

Tokens = dict[str, TokenizedPrompts]


def generate(
    pipeline: Pipeline,
    prompts: str | Sequence[str],
    *,
    concepts: Sequence[Concept] = (),
    seed: int = 0,
    steps: int = 50,
    guidance: float = 5.0,
    sampler: str = "ddim",
    negative_prompt: str = "",
    latents: Float32[Array | np.ndarray, "n h w c"] | None = None,
    height: int | None = None,
    width: int | None = None,
    num_images: int = 1,
    eta: float = 0.0,
    batch_size: int | None = None,
) -> UInt8[np.ndarray, "n height width 3"]:
    """Draws pictures.

    Args:
        pipeline: the frozen model.
        prompts: what to draw; one or several.
        concepts: learned words that the prompts, or the negative prompt, may hold.
        seed: in [0, 2**32); picture i depends on (seed, i) alone, whatever the batch.
        steps: of the sampler.
        guidance: scale of classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598); 1 and below switch it
            off.
        sampler: ddim, ddpm, dpm++ or euler.
        negative_prompt: what guidance leads away from.
        latents: the initial noise, standard normal, one a picture; drawn if None.
        height: in pixels, a multiple of the VAE's factor; the model's own if None.
        width: likewise.
        num_images: of each prompt, one after the other.
        eta: of DDIM, in [0, 1]: 0 without noise, 1 with as much as DDPM.
        batch_size: pictures drawn at a time; all of them if None.

    Returns:
        the pictures, prompt by prompt.

    Raises:
        UserError: if two concepts have one word, a concept is of another model, or a number is out of range.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    texts = [text for text in texts for _ in range(num_images)]
    if not texts or num_images < 1:
        raise UserError("there is nothing to draw: give at least one prompt and num_images of 1 or more")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}: it must be in [0, 2**32)")
    vectors, placeholders = _join(pipeline, concepts)
    batch = min(batch_size or len(texts), len(texts))
    if batch < 1:
        raise UserError("batch_size must be 1 or more")
    shape = pipeline.latent_shape(height, width)
    if latents is not None:
        if latents.ndim != 4 or latents.shape[0] != len(texts):
            raise UserError(f"latents are {list(latents.shape)}: give [{len(texts)}, h, w, c]")
        shape = latents.shape[1:]
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed, impl="threefry2x32")))(
        jnp.arange(len(texts))
    )
    noise = latents if latents is not None else _initial_noise(keys, shape)
    tokens = _tokenize(pipeline, texts, placeholders)
    negative = _tokenize(pipeline, [negative_prompt], placeholders)
    schedule_of_steps = plan(pipeline.schedule, sampler, steps, eta=eta)
    images = []
    for first in range(0, len(texts), batch):
        # The last batch is filled up, so that it does not compile again.
        rows = np.minimum(np.arange(first, first + batch), len(texts) - 1)
        pick = functools.partial(jax.tree.map, lambda x, rows=rows: x[rows])
        drawn = _draw(
            pipeline.networks,
            schedule_of_steps,
            vectors,
            pick(tokens),
            negative,
            jnp.asarray(noise)[rows],
            keys[rows],
            jnp.float32(guidance),
            guided=guidance > 1,
        )
        images.append(np.asarray(drawn)[: len(texts) - first])
    return np.concatenate(images)


@functools.partial(jax.jit, static_argnames="guided")
def _draw(
    networks: dict[str, Any],
    steps: Plan,
    vectors: dict[str, Array],
    tokens: Tokens,
    negative: Tokens,
    noise: Float32[Array, "b h w c"],
    keys: Array,
    guidance: Float32[Array, ""],
    *,
    guided: bool,
) -> UInt8[Array, "b height width 3"]:
    """Prompts to pixels in one dispatch."""
    b = noise.shape[0]
    context = encode_prompts(networks, tokens, vectors)
    if guided:
        away = encode_prompts(networks, negative, vectors)
        context = jnp.concatenate([jnp.broadcast_to(away, context.shape), context])

    def denoise(latents: Float32[Array, "b h w c"], timestep: Array) -> Float32[Array, "b h w c"]:
        twice = jnp.concatenate([latents, latents]) if guided else latents
        timesteps = jnp.broadcast_to(timestep, (twice.shape[0],))
        output = networks["unet"](twice, timesteps, context).astype(jnp.float32)
        if not guided:
            return output
        without, with_prompt = output[:b], output[b:]
        return without + guidance * (with_prompt - without)

    return _decode(networks["vae"], sample(denoise, noise, steps, keys))


def _decode(vae: Any, latents: Float32[Array, "b h w c"]) -> UInt8[Array, "b height width 3"]:
    """Scaled latents to pixels, one picture at a time: its activations are the largest of all."""
    unscaled = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    images = vae.decode_sliced(unscaled).astype(jnp.float32)
    return jnp.round(jnp.clip(images / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=1)
def _initial_noise(keys: Array, shape: tuple[int, int, int]) -> Float32[Array, "n h w c"]:
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def _join(pipeline: Pipeline, concepts: Sequence[Concept]) -> tuple[dict[str, Array], dict[str, int]]:
    """The vectors of all concepts in one array an encoder, and how many each word has."""
    placeholders: dict[str, int] = {}
    for concept in concepts:
        if concept.placeholder.lower() in {word.lower() for word in placeholders}:
            raise UserError(f"two concepts have the word {concept.placeholder}: load one under another --token")
        placeholders[concept.placeholder] = concept.num_vectors
    vectors: dict[str, Array] = {}
    for name, width in pipeline.widths.items():
        parts = [np.zeros((1, width), np.float32)] if not concepts else []
        for concept in concepts:
            found = concept.vectors.get(name)
            if found is None or found.shape[1] != width:
                sizes = ", ".join(f"{k} {v.shape[1]}" for k, v in concept.vectors.items())
                raise UserError(
                    f"{concept.placeholder} has vectors of another model: {sizes}, where this one wants {name} {width}"
                )
            parts.append(np.asarray(found, np.float32))
        vectors[name] = jnp.asarray(np.concatenate(parts))
    return vectors, placeholders


def _tokenize(pipeline: Pipeline, texts: list[str], placeholders: dict[str, int]) -> Tokens:
    return {
        name: tokenize(
            texts,
            tokenizer,
            placeholders,
            max_length=pipeline.max_length,
            eos_token_id=pipeline.networks[name].config.eos_token_id,
        )
        for name, tokenizer in pipeline.tokenizers.items()
    }
