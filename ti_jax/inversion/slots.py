"""The arrays of an inversion: what a slot is given, and what it learns.

Every leaf has a leading axis of slots. Concepts of different sizes share one shape: pictures, prompts and vectors
are padded to common bounds, and counts or masks say how many are real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float32, Int32, Key

from ti_jax.concepts.prompts import TokenizedPrompts
from ti_jax.config import InversionConfig
from ti_jax.inversion.optimizer import gradient_transformation
from ti_jax.inversion.stopping import LossRecord, empty_record

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
    settled: Bool[Array, "*slots"]
    """Whether the stopping rule has ended it."""
    evaluated_step: Int32[Array, "*slots"]
    """Steps taken at the latest loss on the fixed set; -1 before the first."""
    losses: LossRecord
    """On the fixed set, as the stopping rule remembers them."""
    best_loss: Float32[Array, "*slots"]
    """The lowest loss on the fixed set so far; infinity before the first evaluation."""
    best_vectors: dict[str, Float32[Array, "*slots n width"]]
    best_step: Int32[Array, "*slots"]


class Occupant(NamedTuple):
    """The concept in a slot."""

    name: str
    num_vectors: int
    fingerprint: str
    """Of its run; see `Prepared.fingerprint`."""


class Saved(NamedTuple):
    """What a checkpoint holds of one concept."""

    name: str
    fingerprint: str
    """Of the run that the state belongs to."""
    state: SlotState
    """In host memory, without the axis of slots and without padding."""

    @property
    def occupant(self) -> Occupant:
        """Of the slot that it was in."""
        return Occupant(self.name, len(next(iter(self.state.vectors.values()))), self.fingerprint)


def active(state: SlotState, inputs: SlotInputs) -> Bool[Array, " slots"]:
    """True for the slots that still have steps to take."""
    return (state.step < inputs.total_steps) & (state.failed_step < 0) & ~state.settled


def initial_state(
    vectors: Mapping[str, Float32[Array | np.ndarray, "slots n width"]], config: InversionConfig
) -> SlotState:
    """The state of slots before their first step.

    Args:
        vectors: by encoder, padded with zeros.
        config: what a slot remembers depends on its `optimizer`, `stopping` and `evaluate_every`.

    Returns:
        the state at step 0.
    """
    slots = len(next(iter(vectors.values())))
    return SlotState(
        vectors=_copy(vectors),
        optimizer=jax.vmap(gradient_transformation(config.optimizer).init)(_copy(vectors)),
        step=jnp.zeros((slots,), jnp.int32),
        failed_step=jnp.full((slots,), -1, jnp.int32),
        settled=jnp.zeros((slots,), bool),
        evaluated_step=jnp.full((slots,), -1, jnp.int32),
        losses=empty_record(config.stopping, config.evaluate_every, slots),
        best_loss=jnp.full((slots,), jnp.inf, jnp.float32),
        best_vectors=_copy(vectors),
        best_step=jnp.zeros((slots,), jnp.int32),
    )


def _copy(vectors: Mapping[str, Float32[Array | np.ndarray, "slots n width"]]) -> dict[str, Array]:
    """Buffers of their own, since the step takes them all over."""
    return {name: jnp.array(v, jnp.float32) for name, v in vectors.items()}


def read_slot(state: SlotState, slot: int, num_vectors: int) -> SlotState:
    """The state of one slot.

    Args:
        state: of all slots, in host memory.
        slot: which.
        num_vectors: of the concept in it.

    Returns:
        copies without the axis of slots and without padding, which only leaves of shape [n, width] have.
    """
    rows = jax.tree.map(lambda leaf: np.array(leaf[slot]), state)
    return jax.tree.map(lambda leaf: leaf[:num_vectors] if leaf.ndim == 2 else leaf, rows)


def add_slots(state: SlotState, rows: Sequence[SlotState]) -> SlotState:
    """A state with more slots after its own.

    Args:
        state: of all slots, in host memory.
        rows: of one slot each, as `read_slot` gives them.

    Returns:
        copies, vectors padded with zeros to the largest.
    """

    def join(leaf: np.ndarray, *others: np.ndarray) -> np.ndarray:
        parts = [leaf, *(other[None] for other in others)]
        if leaf.ndim == 3:
            most = max(part.shape[1] for part in parts)
            parts = [np.pad(part, ((0, 0), (0, most - part.shape[1]), (0, 0))) for part in parts]
        return np.concatenate(parts)

    return jax.tree.map(join, state, *rows)
