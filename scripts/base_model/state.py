"""The state of a training run, on disk and off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors import safe_open
from safetensors.numpy import save

from ti_jax.files import write_bytes


class TrainState(NamedTuple):
    """Everything that a step changes.

    Args:
        step: steps done.
        parameters: of the networks.
        average: exponential moving average of the parameters.
        optimizer: optax's state.
    """

    step: jax.Array
    parameters: Any
    average: Any
    optimizer: Any


def new_state(parameters: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    average = jax.tree.map(jnp.copy, parameters)
    return TrainState(jnp.zeros((), jnp.int32), parameters, average, optimizer.init(parameters))


def update(state: TrainState, gradients: Any, optimizer: optax.GradientTransformation, *, decay: float) -> TrainState:
    """One step of the optimiser and of the average, whose memory grows with the run up to `decay`."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes float and int
        changes, moments = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, changes)
    done = state.step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1.0 + done) / (10.0 + done))
    average = jax.tree.map(lambda a, p: a + (1 - kept) * (p - a), state.average, parameters)
    return TrainState(state.step + 1, parameters, average, moments)


def save_state(path: Path, state: TrainState, facts: dict[str, Any]) -> None:
    """Writes a state, exactly, with facts beside it (JSON)."""
    leaves = {f"{i:05}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    write_bytes(path, save(leaves, metadata={"facts": json.dumps(facts)}))


def load_state(path: Path, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Reads what `save_state` wrote.

    Args:
        path: of the file.
        like: a state of the same structure.

    Returns:
        the state and the facts.

    Raises:
        ValueError: if the file is of another structure.
    """
    leaves, structure = jax.tree.flatten(like)
    with safe_open(path, framework="numpy") as file:
        read = [file.get_tensor(name) for name in sorted(file.keys())]
        facts = json.loads(file.metadata()["facts"])
    if [a.shape for a in read] != [a.shape for a in leaves]:
        raise ValueError(f"{path} belongs to networks of other sizes: choose another --state-dir")
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in read]), facts
