"""Every random draw of an inversion, as a function of (seed, concept, step, example) and of nothing else.

A concept's draws are the same alone or in company, in any slot, order and batch, on any device: keys are threefry's
(others draw differently under `vmap`), and each example folds in its own index.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Key

from ti_jax.concepts.prompts import TokenizedPrompts
from ti_jax.inversion.slots import FIXED_STREAM, SlotInputs


class Examples(NamedTuple):
    """What the denoising loss is taken of."""

    latents: Float32[Array, "*batch h w c"]
    noise: Float32[Array, "*batch h w c"]
    timesteps: Int32[Array, "*batch"]
    prompts: dict[str, TokenizedPrompts]
    """By encoder; ids int32[*batch, length] and so on."""
    sizes: Float32[Array, "*batch 6"]
    """Of the pictures and their crops; see `conditioning.picture_sizes`."""


def concept_key(seed: int, name: str) -> Key[Array, ""]:
    """The random stream of a concept.

    Args:
        seed: of the run, in [0, 2**32).
        name: of the concept; the first four bytes of its SHA-256, big-endian, are folded in.

    Returns:
        a threefry key.
    """
    concept_id = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), concept_id)


def draw_examples(
    concept: SlotInputs, step: Int32[Array, ""], indices: Int32[Array, " batch"], num_timesteps: int
) -> Examples:
    """Examples of one concept at one step.

    Args:
        concept: one slot's inputs, without the axis of slots.
        step: the optimiser steps taken.
        indices: which examples of the step; an example depends on its own index alone.
        num_timesteps: of the noise schedule; timesteps are uniform in [0, num_timesteps).

    Returns:
        one example an index: picture, flip, prompt and timestep uniform, latents from the VAE's posterior.
    """
    key = jax.random.fold_in(concept.key, step)

    def draw(index: Int32[Array, ""]) -> Examples:
        picture_key, flip_key, prompt_key, posterior_key, noise_key, time_key = jax.random.split(
            jax.random.fold_in(key, index), 6
        )
        picture = jax.random.randint(picture_key, (), 0, concept.num_pictures)
        flip = jax.random.randint(flip_key, (), 0, concept.latent_mean.shape[1])
        prompt = concept.first_prompt[picture] + jax.random.randint(prompt_key, (), 0, concept.num_prompts[picture])
        mean, std = concept.latent_mean[picture, flip], concept.latent_std[picture, flip]
        return Examples(
            latents=mean + std * jax.random.normal(posterior_key, mean.shape, jnp.float32),
            noise=jax.random.normal(noise_key, mean.shape, jnp.float32),
            timesteps=jax.random.randint(time_key, (), 0, num_timesteps),
            prompts=_prompt(concept, prompt),
            sizes=concept.sizes[picture],
        )

    return jax.vmap(draw)(indices)


def fixed_examples(concept: SlotInputs, indices: Int32[Array, " batch"], size: int, num_timesteps: int) -> Examples:
    """The examples that the loss of a concept is compared on from step to step.

    Args:
        concept: one slot's inputs, without the axis of slots.
        indices: which examples of the fixed set, in [0, size).
        size: of the fixed set; example i has the middle timestep of the i-th of `size` equal strata.
        num_timesteps: of the noise schedule.

    Returns:
        one example an index: pictures in turn, unflipped, at the posterior's mean.
    """
    key = jax.random.fold_in(concept.key, jnp.uint32(FIXED_STREAM))

    def draw(index: Int32[Array, ""]) -> Examples:
        picture = index % concept.num_pictures
        turn = index // concept.num_pictures
        mean = concept.latent_mean[picture, 0]
        return Examples(
            latents=mean,
            noise=jax.random.normal(jax.random.fold_in(key, index), mean.shape, jnp.float32),
            timesteps=((2 * index + 1) * num_timesteps) // (2 * size),
            prompts=_prompt(concept, concept.first_prompt[picture] + turn % concept.num_prompts[picture]),
            sizes=concept.sizes[picture],
        )

    return jax.vmap(draw)(indices)


def _prompt(concept: SlotInputs, index: Int32[Array, ""]) -> dict[str, TokenizedPrompts]:
    return jax.tree.map(lambda table: table[index], concept.prompts)
