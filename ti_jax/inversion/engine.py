"""Slots on the device, and the host's account of who is in them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ti_jax.config import InversionConfig
from ti_jax.inversion.optimizer import gradient_transformation
from ti_jax.inversion.prepare import Prepared, vocabulary_norms
from ti_jax.inversion.slots import SlotState, initial_state
from ti_jax.inversion.step import run_chunk
from ti_jax.pipeline import Pipeline


@dataclass(frozen=True)
class ChunkReport:
    """What one dispatch did, on the host; columns are slots."""

    loss: np.ndarray
    """float32 [steps, slots]; not a number where a slot took no step."""
    norm: np.ndarray
    learning_rate: np.ndarray
    fixed_loss: np.ndarray
    """float32 [slots]; not a number if it was not asked for."""


class Engine:
    """A fixed number of slots that run the compiled step together.

    Args:
        pipeline: the frozen model.
        config: with the model's defaults filled in.
        concepts: one a slot, already made ready; they set the padded shapes.
    """

    def __init__(self, pipeline: Pipeline, config: InversionConfig, concepts: list[Prepared]) -> None:
        self.pipeline = pipeline
        self.config = config
        self.concepts = concepts
        self.vocabulary_norm = vocabulary_norms(pipeline)
        self.inputs, vectors = _pad_together([(concept.inputs, concept.vectors) for concept in concepts])
        self.state = initial_state(vectors, gradient_transformation(config.optimizer))

    def advance(self, num_steps: int, *, evaluate: bool) -> ChunkReport:
        """Runs a chunk in one dispatch.

        Args:
            num_steps: in [0, config.evaluate_every].
            evaluate: whether to end with the loss on the fixed sets.

        Returns:
            what happened, once it has.
        """
        self.state, metrics, fixed_loss = run_chunk(
            self.pipeline.networks,
            self.pipeline.schedule,
            self.vocabulary_norm,
            self.state,
            self.inputs,
            jnp.int32(num_steps),
            jnp.bool_(evaluate),
            config=self._compiled_config,
        )
        metrics, fixed_loss = jax.device_get((metrics, fixed_loss))
        loss, norm, rate = (rows[:num_steps] for rows in metrics)
        return ChunkReport(loss, norm, rate, fixed_loss)

    @functools.cached_property
    def _compiled_config(self) -> InversionConfig:
        """The configuration less what the program does not read, so that a change of it compiles nothing."""
        default = InversionConfig()
        names = (
            "steps",
            "seed",
            "checkpoint_every",
            "save_every",
            "preview_prompts",
            "preview_steps",
            "data",
        )
        return dataclasses.replace(self.config, **{name: getattr(default, name) for name in names})

    def snapshot(self) -> SlotState:
        """A copy of the state, which later steps do not touch; they take over the state itself."""
        return jax.tree.map(jnp.copy, self.state)


def _pad_together(trees: list[Any]) -> Any:
    """Stacks pytrees of arrays along a new first axis, each leaf padded with zeros to the largest."""

    def stack(*leaves: Any) -> Any:
        if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):  # scalars that numpy cannot hold
            return jnp.stack(leaves)
        stacked = np.zeros(
            (len(leaves), *np.max([np.shape(leaf) for leaf in leaves], axis=0).astype(int)), leaves[0].dtype
        )
        for slot, leaf in enumerate(leaves):
            stacked[slot, *(slice(n) for n in np.shape(leaf))] = leaf
        return jnp.asarray(stacked)

    return jax.tree.map(stack, *trees)
