"""The arrays of an inversion: what a slot is given, and what it learns.

Every leaf has a leading axis of slots. Concepts of different sizes share one shape: pictures, prompts and vectors
are padded to common bounds, and counts or masks say how many are real.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float32, Int32, Key

from ti_jax.concepts.prompts import TokenizedPrompts

FIXED_STREAM = 2**32 - 1
"""Folded into a concept's key in the place of a step, for the draws of its fixed set; no run gets that far."""
INITIAL_STREAM = 2**32 - 2
"""The same for initial vectors drawn at random."""


class SlotInputs(NamedTuple):
    """What stays as it is while a concept is learned; p pictures, f flips, t prompts, n vectors at most."""

    key: Key[Array, "*slots"]
    """The concept's own random stream: `concept_key(seed, name)`."""
    total_steps: Int32[Array, "*slots"]
    learning_rate: Float32[Array, "*slots"]
    """Peak rate, before the schedule."""
    latent_mean: Float32[Array, "*slots p f h w c"]
    """Means of the VAE's posterior, scaled; flip 0 is the picture as it is, 1 its mirror image."""
    latent_std: Float32[Array, "*slots p f h w c"]
    num_pictures: Int32[Array, "*slots"]
    sizes: Float32[Array, "*slots p 6"]
    """Of each picture and its crop; see `conditioning.picture_sizes`."""
    prompts: dict[str, TokenizedPrompts]
    """By encoder; ids int32[slots, t, length] and so on."""
    first_prompt: Int32[Array, "*slots p"]
    """Picture i is explained by prompts first_prompt[i], ..., first_prompt[i] + num_prompts[i] - 1."""
    num_prompts: Int32[Array, "*slots p"]
    vector_mask: dict[str, Bool[Array, "*slots n"]]
    """False where a vector is padding."""


class SlotState(NamedTuple):
    """What a step changes, and all that a checkpoint holds."""

    vectors: dict[str, Float32[Array, "*slots n width"]]
    optimizer: optax.OptState
    step: Int32[Array, "*slots"]
    """Optimiser steps taken."""
    failed_step: Int32[Array, "*slots"]
    """The step whose loss or gradient was not finite, where the slot stopped; -1 while all is well."""
    initial_loss: Float32[Array, "*slots"]
    """Loss on the fixed set before the first step."""
    best_loss: Float32[Array, "*slots"]
    """The lowest loss on the fixed set so far; infinity before the first evaluation."""
    best_vectors: dict[str, Float32[Array, "*slots n width"]]
    best_step: Int32[Array, "*slots"]


def active(state: SlotState, inputs: SlotInputs) -> Bool[Array, " slots"]:
    """True for the slots that still have steps to take."""
    return (state.step < inputs.total_steps) & (state.failed_step < 0)


def initial_state(
    vectors: dict[str, Float32[Array, "slots n width"]], optimizer: optax.GradientTransformation
) -> SlotState:
    """The state of slots before their first step.

    Args:
        vectors: by encoder, padded with zeros.
        optimizer: the transformation whose state each slot gets, as if it were alone.

    Returns:
        the state at step 0.
    """
    slots = next(iter(vectors.values())).shape[0]

    def counter(value: int) -> Int32[Array, " slots"]:
        return jnp.full((slots,), value, jnp.int32)

    def loss() -> Float32[Array, " slots"]:
        return jnp.full((slots,), jnp.inf, jnp.float32)

    # Each leaf has a buffer of its own, since the step takes them all over.
    return SlotState(
        vectors=jax.tree.map(jnp.copy, vectors),
        optimizer=jax.vmap(optimizer.init)(vectors),
        step=counter(0),
        failed_step=counter(-1),
        initial_loss=loss(),
        best_loss=loss(),
        best_vectors=jax.tree.map(jnp.copy, vectors),
        best_step=counter(0),
    )
