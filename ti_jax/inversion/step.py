"""One dispatch of the compiled program: a chunk of optimiser steps of every slot, then the loss on the fixed sets.

The networks see one flat batch of examples. A concept's own structure is in two places only: its vectors are spliced
into its own prompts, and its losses are averaged into its own update.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float32, Int32

from ti_jax.compilation import compiler_options
from ti_jax.config import InversionConfig
from ti_jax.diffusion.schedule import NoiseSchedule, min_snr_weights
from ti_jax.inversion.draws import draw_examples, fixed_examples
from ti_jax.inversion.objective import example_losses, loss_scale, slot_losses
from ti_jax.inversion.optimizer import (
    gradient_transformation,
    optimizer_update,
    rescale_norms,
    scheduled_rate,
    vector_norms,
)
from ti_jax.inversion.slots import SlotInputs, SlotState, active
from ti_jax.inversion.stopping import add_loss, has_settled

Networks = Mapping[str, Any]
STEP_SCOPE = "optimizer_step"
"""Under this name a step is found in profiles and in compiled programs."""


class ChunkLog(NamedTuple):
    """What a chunk did, by step and slot; not a number where nothing was done."""

    loss: Float32[Array, " steps *slots"]
    """Mean squared error over the step's examples, unweighted."""
    norm: Float32[Array, " steps *slots"]
    """Mean norm of the concept's vectors after the step, over the vocabulary's median norm."""
    learning_rate: Float32[Array, " steps *slots"]
    fixed_loss: Float32[Array, " steps *slots"]
    """On the fixed set, before the step; the row after the last step holds the losses after it."""


@functools.cache
def chunk_program(config: InversionConfig, mesh: Mesh) -> Callable[..., tuple[SlotState, ChunkLog]]:
    """The jitted function of up to `config.evaluate_every` steps of every slot: one dispatch, no word to the host.

    A slot is evaluated on its fixed set before its first step, after every `config.evaluate_every` of its own steps
    and after its last, whatever its neighbours do.

    Args:
        config: compiled into the program.
        mesh: with axes `concepts`, over which the slots are divided without any communication, and `data`, over which
            the examples of each slot are: their losses and gradients are averaged.

    Returns:
        a function of

        - networks: frozen modules by name,
        - schedule: of the noise,
        - vocabulary_norm: median norm of the token embeddings, by encoder,
        - state: `SlotState`, donated,
        - inputs: `SlotInputs`,
        - num_steps: int32, at most `config.evaluate_every`,

        which returns the new state and the log, f32[config.evaluate_every + 1, slots], of which the first `num_steps`
        rows (one more of `fixed_loss`) are filled.
    """
    everywhere, by_slot, log = PartitionSpec(), PartitionSpec("concepts"), PartitionSpec(None, "concepts")
    chunk = jax.shard_map(
        functools.partial(_chunk, config=config, data_parallel=mesh.shape["data"]),
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere, by_slot, by_slot, everywhere),
        out_specs=(by_slot, log),
        # The checker wants every value marked by the axes along which it differs; here each slot's own all do.
        check_vma=False,
    )
    # Said outright, since XLA calls what is on one device unsharded, and the next call would be compiled anew.
    return jax.jit(
        chunk,
        donate_argnums=3,
        out_shardings=(NamedSharding(mesh, by_slot), NamedSharding(mesh, log)),
        compiler_options=compiler_options(mesh.devices.flat[0].platform),
    )


def _chunk(
    networks: Networks,
    schedule: NoiseSchedule,
    vocabulary_norm: dict[str, Float32[Array, ""]],
    state: SlotState,
    inputs: SlotInputs,
    num_steps: Int32[Array, ""],
    *,
    config: InversionConfig,
    data_parallel: int,
) -> tuple[SlotState, ChunkLog]:
    """The steps of the slots of one device."""
    slots = state.step.shape[0]
    nothing = jnp.full((slots,), jnp.nan, jnp.float32)
    empty = jnp.full((config.evaluate_every + 1, slots), jnp.nan, jnp.float32)

    def step(state: SlotState) -> tuple[SlotState, tuple[Array, Array, Array]]:
        with jax.named_scope(STEP_SCOPE):
            return _step(networks, schedule, vocabulary_norm, state, inputs, config, data_parallel)

    def rest(state: SlotState) -> tuple[SlotState, tuple[Array, Array, Array]]:
        return state, (nothing, nothing, nothing)

    def body(i: Int32[Array, ""], carry: tuple[SlotState, ChunkLog]) -> tuple[SlotState, ChunkLog]:
        state, log = carry
        state, fixed_loss = _evaluate(networks, schedule, state, inputs, config)
        state, metrics = jax.lax.cond(i < num_steps, step, rest, state)
        row = ChunkLog(*metrics, fixed_loss=fixed_loss)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), log, row)

    return jax.lax.fori_loop(0, num_steps + 1, body, (state, ChunkLog(empty, empty, empty, empty)))


def _step(
    networks: Networks,
    schedule: NoiseSchedule,
    vocabulary_norm: dict[str, Float32[Array, ""]],
    state: SlotState,
    inputs: SlotInputs,
    config: InversionConfig,
    data_parallel: int,
) -> tuple[SlotState, tuple[Array, Array, Array]]:
    """One optimiser step of every active slot; loss, norm and rate of each."""
    loss, gradients = _gradients(networks, schedule, state, inputs, config, data_parallel)
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
    norm = relative_norms(new.vectors, inputs.vector_mask, vocabulary_norm)
    return new, (
        jnp.where(updated, loss, jnp.nan),
        jnp.where(updated, norm, jnp.nan),
        jnp.where(updated, rate, jnp.nan),
    )


def _gradients(
    networks: Networks,
    schedule: NoiseSchedule,
    state: SlotState,
    inputs: SlotInputs,
    config: InversionConfig,
    data_parallel: int,
) -> tuple[Float32[Array, " slots"], dict[str, Float32[Array, "slots n width"]]]:
    """Mean loss of each slot's examples, and the gradient of its weighted mean, over all accumulation passes."""
    passes = config.gradient_accumulation
    batch = config.batch_size // data_parallel  # of this device
    offset = jax.lax.axis_index("data") * batch
    scale = loss_scale(networks["unet"], inputs.latent_mean.shape[-3:])

    def objective(vectors: dict[str, Array], first: Int32[Array, ""]) -> tuple[Array, Array]:
        indices = first + offset + jnp.arange(batch)
        examples = jax.vmap(draw_examples, in_axes=(0, 0, None, None))(
            inputs, state.step, indices, schedule.num_timesteps
        )
        losses = slot_losses(networks, schedule, vectors, examples, remat=config.remat)
        weights = jnp.ones_like(losses)
        if config.min_snr_gamma is not None:
            weights = min_snr_weights(schedule, examples.timesteps, config.min_snr_gamma)
        # Slots do not share vectors, so the gradient of the sum holds each slot's own gradient.
        return scale * jnp.sum(jnp.mean(weights * losses, axis=1)), jnp.mean(losses, axis=1)

    def accumulate(total: Any, index: Int32[Array, ""]) -> tuple[Any, None]:
        (_, loss), gradients = jax.value_and_grad(objective, has_aux=True)(state.vectors, index * config.batch_size)
        gradients = jax.tree.map(lambda x: x / scale, gradients)
        return jax.tree.map(lambda t, x: t + x / passes, total, (loss, gradients)), None

    zero = (jnp.zeros_like(inputs.learning_rate), jax.tree.map(jnp.zeros_like, state.vectors))
    total = jax.lax.scan(accumulate, zero, jnp.arange(passes))[0]
    return total if data_parallel == 1 else jax.lax.pmean(total, "data")


def _evaluate(
    networks: Networks, schedule: NoiseSchedule, state: SlotState, inputs: SlotInputs, config: InversionConfig
) -> tuple[SlotState, Float32[Array, " slots"]]:
    """The loss on the fixed set of each slot where it is due, and what follows from it: the best vectors, the end."""
    pause = (state.step % config.evaluate_every == 0) | (state.step == inputs.total_steps)
    due = pause & (state.evaluated_step != state.step) & (state.failed_step < 0) & (inputs.total_steps > 0)
    nothing = jnp.full(due.shape, jnp.nan, jnp.float32)

    def one(slot: tuple[Array, dict[str, Array], SlotInputs]) -> Float32[Array, ""]:
        return jax.lax.cond(
            slot[0], lambda: _fixed_loss(networks, schedule, slot[1], slot[2], config), lambda: jnp.float32(jnp.nan)
        )

    # One slot after the other, so that it costs no more than the slots that are due, with the same bits in any company.
    losses = jax.lax.cond(jnp.any(due), lambda: jax.lax.map(one, (due, state.vectors, inputs)), lambda: nothing)
    better = losses < state.best_loss  # never where the loss is not a number
    record = add_loss(state.losses, losses, due & jnp.isfinite(losses))
    settled = state.settled
    if config.stopping.rule == "dvar":
        settled |= due & has_settled(record, config.stopping.threshold)
    state = state._replace(
        settled=settled,
        evaluated_step=jnp.where(due, state.step, state.evaluated_step),
        losses=record,
        best_loss=jnp.where(better, losses, state.best_loss),
        best_vectors=_where(better, state.vectors, state.best_vectors),
        best_step=jnp.where(better, state.step, state.best_step),
    )
    return state, losses


def _fixed_loss(
    networks: Networks,
    schedule: NoiseSchedule,
    vectors: dict[str, Float32[Array, "n width"]],
    inputs: SlotInputs,
    config: InversionConfig,
) -> Float32[Array, ""]:
    """Mean loss of one slot on its fixed set, in passes no larger than a step's."""
    size = config.fixed_set_size
    group = max(g for g in range(1, config.batch_size + 1) if size % g == 0)

    def losses(first: Int32[Array, ""]) -> Float32[Array, " group"]:
        examples = fixed_examples(inputs, first + jnp.arange(group), size, schedule.num_timesteps)
        return example_losses(networks, schedule, vectors, examples)

    return jnp.mean(jax.lax.map(losses, jnp.arange(0, size, group)))


def relative_norms(
    vectors: Mapping[str, Float32[Array, "slots n width"]],
    mask: Mapping[str, Bool[Array, "slots n"]],
    vocabulary_norm: Mapping[str, Float32[Array, ""]],
) -> Float32[Array, " slots"]:
    """Mean norm of each slot's vectors over the vocabulary's median norm, averaged over the encoders."""
    counts = {name: jnp.sum(m, axis=1, dtype=jnp.float32) for name, m in mask.items()}
    ratios = [
        jnp.sum(vector_norms(v), axis=1) / jnp.maximum(counts[name], 1.0) / vocabulary_norm[name]
        for name, v in vectors.items()
    ]
    return jnp.mean(jnp.stack(ratios), axis=0)


def _where(condition: Bool[Array, " slots"], new: Any, old: Any) -> Any:
    """Leaf by leaf, the new value in the slots where the condition holds."""
    return jax.tree.map(
        lambda n, o: jnp.where(condition.reshape(condition.shape + (1,) * (n.ndim - 1)), n, o), new, old
    )
