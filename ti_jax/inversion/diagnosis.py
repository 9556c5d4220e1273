"""Telling the user early that a run will come to nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ti_jax.inversion.history import History

PATIENCE = 100
"""Steps after which a run that learns should show it."""
_LEAST_MOVEMENT = 0.01  # of the vocabulary's median norm
_LARGEST_NORM = 5.0  # in the vocabulary's median norm


def diagnose(
    history: History,
    vectors: Mapping[str, np.ndarray],
    initial_vectors: Mapping[str, np.ndarray],
    vocabulary_norm: Mapping[str, float],
) -> dict[str, str]:
    """What looks wrong, with the likely cause.

    Args:
        history: of the run so far.
        vectors: by encoder, float32 [n, width], after the last step of `history`.
        initial_vectors: the same, before the first step.
        vocabulary_norm: median norm of the token embeddings, by encoder.

    Returns:
        warnings by kind: `loss` and `movement` once `PATIENCE` steps are taken, `norm` at any time.
    """
    warnings: dict[str, str] = {}
    if history.norm and history.norm[-1] > _LARGEST_NORM:
        warnings["norm"] = (
            f"the vectors' norm is {history.norm[-1]:.1f} times the vocabulary's median at step {history.steps}: "
            "prompts around the word will be ignored; try a lower --learning-rate, fewer steps "
            "or --norm-control median"
        )
    if history.steps < PATIENCE:
        return warnings
    movement = max(
        float(np.max(np.linalg.norm(vectors[name] - initial_vectors[name], axis=-1))) / vocabulary_norm[name]
        for name in vectors
    )
    if movement < _LEAST_MOVEMENT:
        warnings["movement"] = (
            f"after {history.steps} steps the vectors have moved by {movement:.2%} of the vocabulary's norm: "
            "the learning rate is likely too low; 5e-3 is usual"
        )
    initial, latest = history.fixed_loss.get(0), history.fixed_loss.get(history.steps)
    if initial is not None and latest is not None and latest >= initial:
        warnings["loss"] = (
            f"after {history.steps} steps the loss on a fixed set is {latest:.5f}, not below its start "
            f"({initial:.5f}): the learning rate may be too high, or the pictures too different from what the "
            "model can draw"
        )
    return warnings
