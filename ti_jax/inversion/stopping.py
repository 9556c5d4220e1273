"""Ending a concept's optimisation when its loss on the fixed set has settled.

The rule of DVAR (Voronov et al. 2023, arXiv 2302.04841; `early_stopping.py` of yandex-research/DVAR): stop when the
variance of the last losses is small beside the variance of all of them. The loss is taken on the same pictures, noise
and timesteps each time, so that what varies is the concept alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from ti_jax.config import StoppingConfig


class LossRecord(NamedTuple):
    """What the rule has to remember of the losses on the fixed set, by slot."""

    count: Int32[Array, "*slots"]
    """Losses so far."""
    mean: Float32[Array, "*slots"]
    """Of all of them."""
    squares: Float32[Array, "*slots"]
    """Sum of their squared differences to the mean (Welford's algorithm)."""
    latest: Float32[Array, "*slots window"]
    """The latest, in a ring: loss i is at i modulo the window."""


def empty_record(config: StoppingConfig, evaluate_every: int, slots: int) -> LossRecord:
    """The record before the first loss.

    Args:
        config: its `window` is in optimiser steps.
        evaluate_every: steps between losses.
        slots: how many.

    Returns:
        a record whose ring holds the losses of one window; one if there is no rule to need them.
    """
    window = 1 if config.rule == "none" else max(2, round(config.window / evaluate_every))
    zeros = jnp.zeros((slots,), jnp.float32)
    return LossRecord(jnp.zeros((slots,), jnp.int32), zeros, zeros, jnp.zeros((slots, window), jnp.float32))


def add_loss(record: LossRecord, losses: Float32[Array, " slots"], due: Bool[Array, " slots"]) -> LossRecord:
    """The record with one more loss in the slots where one is due."""
    count = record.count + due.astype(jnp.int32)
    difference = jnp.where(due, losses - record.mean, 0.0)
    mean = record.mean + difference / jnp.maximum(count, 1).astype(jnp.float32)
    squares = record.squares + jnp.where(due, difference * (losses - mean), 0.0)
    window = record.latest.shape[1]
    here = (jnp.arange(window)[None, :] == (record.count % window)[:, None]) & due[:, None]
    return LossRecord(count, mean, squares, jnp.where(here, losses[:, None], record.latest))


def has_settled(record: LossRecord, threshold: float) -> Bool[Array, " slots"]:
    """Whether the variance of the latest losses is below `threshold` times the variance of all.

    Args:
        record: of slots.
        threshold: DVAR's epsilon; 0.15 for Textual Inversion.

    Returns:
        false in slots with fewer losses than the window holds.
    """
    window = record.latest.shape[1]
    everything = record.squares / jnp.maximum(record.count, 1).astype(jnp.float32)
    return (record.count >= window) & (jnp.var(record.latest, axis=1) < threshold * everything)
