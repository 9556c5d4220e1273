"""One dispatch of the compiled program: a chunk of optimiser steps of every slot, then the loss on the fixed sets.

The networks see one flat batch of examples. A concept's own structure is in two places only: its vectors are spliced
into its own prompts, and its losses are averaged into its own update.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from ti_jax.config import InversionConfig
from ti_jax.diffusion.schedule import NoiseSchedule, min_snr_weights
from ti_jax.inversion.draws import draw_examples, fixed_examples
from ti_jax.inversion.objective import slot_losses
from ti_jax.inversion.optimizer import (
    gradient_transformation,
    optimizer_update,
    rescale_norms,
    scheduled_rate,
    vector_norms,
)
from ti_jax.inversion.slots import SlotInputs, SlotState, active

Networks = Mapping[str, Any]


class StepMetrics(NamedTuple):
    """Of one step, by slot; not a number where the slot took none."""

    loss: Float32[Array, "*slots"]
    """Mean squared error over the step's examples, unweighted."""
    norm: Float32[Array, "*slots"]
    """Mean norm of the concept's vectors after the step, over the vocabulary's median norm."""
    learning_rate: Float32[Array, "*slots"]


@functools.partial(jax.jit, static_argnames=("config",), donate_argnames=("state",))
def run_chunk(
    networks: Networks,
    schedule: NoiseSchedule,
    vocabulary_norm: dict[str, Float32[Array, ""]],
    state: SlotState,
    inputs: SlotInputs,
    num_steps: Int32[Array, ""],
    evaluate: Bool[Array, ""],
    *,
    config: InversionConfig,
) -> tuple[SlotState, StepMetrics, Float32[Array, " slots"]]:
    """Up to `config.evaluate_every` steps of every slot in one dispatch, without a word to the host.

    Args:
        networks: frozen modules by name.
        schedule: of the noise.
        vocabulary_norm: median norm of the token embeddings, by encoder.
        state: of the slots; donated.
        inputs: of the slots.
        num_steps: how many steps, at most `config.evaluate_every`.
        evaluate: whether to end with the loss on the fixed sets.
        config: compiled into the program.

    Returns:
        the new state; metrics f32[config.evaluate_every, slots], of which the first `num_steps` rows are filled;
        and the loss on the fixed sets, not a number unless `evaluate`.
    """
    slots = state.step.shape[0]
    empty = jnp.full((config.evaluate_every, slots), jnp.nan, jnp.float32)

    def body(i: Int32[Array, ""], carry: tuple[SlotState, StepMetrics]) -> tuple[SlotState, StepMetrics]:
        state, log = carry
        state, metrics = _step(networks, schedule, vocabulary_norm, state, inputs, config)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), log, metrics)

    start = (state, StepMetrics(empty, empty, empty))
    state, metrics = jax.lax.fori_loop(0, num_steps, body, start)
    losses = jax.lax.cond(
        evaluate,
        lambda vectors: _fixed_losses(networks, schedule, vectors, inputs, config),
        lambda vectors: jnp.full((slots,), jnp.nan, jnp.float32),
        state.vectors,
    )
    return _keep_best(state, losses), metrics, losses


def _step(
    networks: Networks,
    schedule: NoiseSchedule,
    vocabulary_norm: dict[str, Float32[Array, ""]],
    state: SlotState,
    inputs: SlotInputs,
    config: InversionConfig,
) -> tuple[SlotState, StepMetrics]:
    """One optimiser step of every active slot."""
    loss, gradients = _gradients(networks, schedule, state, inputs, config)
    finite = jnp.isfinite(loss)
    for gradient in jax.tree.leaves(gradients):
        finite &= jnp.all(jnp.isfinite(gradient), axis=(1, 2))
    rate = scheduled_rate(config.optimizer, inputs.learning_rate, state.step, inputs.total_steps)
    vectors, optimizer = optimizer_update(
        gradient_transformation(config.optimizer), gradients, state.optimizer, state.vectors, rate
    )
    if config.norm_control == "median":
        vectors = {
            name: rescale_norms(v, inputs.vector_mask[name], vocabulary_norm[name]) for name, v in vectors.items()
        }

    running = active(state, inputs)
    updated = running & finite
    new = state._replace(
        vectors=_where(updated, vectors, state.vectors),
        optimizer=_where(updated, optimizer, state.optimizer),
        step=state.step + updated.astype(jnp.int32),
        failed_step=jnp.where(running & ~finite, state.step, state.failed_step),
    )
    metrics = StepMetrics(loss, relative_norms(new.vectors, inputs.vector_mask, vocabulary_norm), rate)
    return new, jax.tree.map(lambda x: jnp.where(updated, x, jnp.nan), metrics)


def _gradients(
    networks: Networks, schedule: NoiseSchedule, state: SlotState, inputs: SlotInputs, config: InversionConfig
) -> tuple[Float32[Array, " slots"], dict[str, Float32[Array, "slots n width"]]]:
    """Mean loss of each slot's examples, and the gradient of its weighted mean, over all accumulation passes."""
    passes = config.gradient_accumulation

    def objective(vectors: dict[str, Array], first: Int32[Array, ""]) -> tuple[Array, Array]:
        indices = first + jnp.arange(config.batch_size)
        examples = jax.vmap(draw_examples, in_axes=(0, 0, None, None))(
            inputs, state.step, indices, schedule.num_timesteps
        )
        losses = slot_losses(networks, schedule, vectors, examples)
        weights = jnp.ones_like(losses)
        if config.min_snr_gamma is not None:
            weights = min_snr_weights(schedule, examples.timesteps, config.min_snr_gamma)
        # Slots do not share vectors, so the gradient of the sum holds each slot's own gradient.
        return jnp.sum(jnp.mean(weights * losses, axis=1)), jnp.mean(losses, axis=1)

    def accumulate(total: Any, index: Int32[Array, ""]) -> tuple[Any, None]:
        (_, loss), gradients = jax.value_and_grad(objective, has_aux=True)(state.vectors, index * config.batch_size)
        return jax.tree.map(lambda t, x: t + x / passes, total, (loss, gradients)), None

    zero = (jnp.zeros_like(inputs.learning_rate), jax.tree.map(jnp.zeros_like, state.vectors))
    return jax.lax.scan(accumulate, zero, jnp.arange(passes))[0]


def _fixed_losses(
    networks: Networks,
    schedule: NoiseSchedule,
    vectors: dict[str, Array],
    inputs: SlotInputs,
    config: InversionConfig,
) -> Float32[Array, " slots"]:
    """Mean loss of each slot on its fixed set, in passes no larger than a step's."""
    size = config.fixed_set_size
    group = max(g for g in range(1, config.batch_size + 1) if size % g == 0)

    def losses(first: Int32[Array, ""]) -> Float32[Array, "slots group"]:
        indices = first + jnp.arange(group)
        examples = jax.vmap(fixed_examples, in_axes=(0, None, None, None))(
            inputs, indices, size, schedule.num_timesteps
        )
        return slot_losses(networks, schedule, vectors, examples)

    return jnp.mean(jax.lax.map(losses, jnp.arange(0, size, group)), axis=(0, 2))


def _keep_best(state: SlotState, losses: Float32[Array, " slots"]) -> SlotState:
    """The state with the vectors that did best on the fixed set; a loss that is not a number never does."""
    better = losses < state.best_loss
    first = (state.step == 0) & jnp.isfinite(losses)
    return state._replace(
        initial_loss=jnp.where(first, losses, state.initial_loss),
        best_loss=jnp.where(better, losses, state.best_loss),
        best_vectors=_where(better, state.vectors, state.best_vectors),
        best_step=jnp.where(better, state.step, state.best_step),
    )


def relative_norms(
    vectors: Mapping[str, Float32[Array, "slots n width"]],
    mask: Mapping[str, Bool[Array, "slots n"]],
    vocabulary_norm: Mapping[str, Float32[Array, ""]],
) -> Float32[Array, " slots"]:
    """Mean norm of each slot's vectors over the vocabulary's median norm, averaged over the encoders."""
    ratios = [
        jnp.sum(vector_norms(v), axis=1) / jnp.sum(mask[name], axis=1, dtype=jnp.float32) / vocabulary_norm[name]
        for name, v in vectors.items()
    ]
    return jnp.mean(jnp.stack(ratios), axis=0)


def _where(condition: Bool[Array, " slots"], new: Any, old: Any) -> Any:
    """Leaf by leaf, the new value in the slots where the condition holds."""
    return jax.tree.map(
        lambda n, o: jnp.where(condition.reshape(condition.shape + (1,) * (n.ndim - 1)), n, o), new, old
    )
