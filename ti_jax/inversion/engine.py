"""Slots on the devices of this host, and the one program that all of them run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ti_jax.config import InversionConfig
from ti_jax.errors import UserError
from ti_jax.inversion.bounds import Bounds, check_fit
from ti_jax.inversion.prepare import Prepared
from ti_jax.inversion.slots import SlotInputs, SlotState, initial_state, read_slot
from ti_jax.inversion.step import ChunkLog, chunk_program
from ti_jax.parallel.mesh import make_mesh
from ti_jax.pipeline import Pipeline


@dataclass(frozen=True)
class ChunkReport:
    """What one dispatch did, in host memory; the last axis of every array is slots."""

    log: ChunkLog
    """Rows are steps; as many as were asked for, and one more."""
    failed_step: np.ndarray
    """-1 while all is well."""
    settled: np.ndarray
    """True where the stopping rule has ended a concept."""


class Engine:
    """A fixed number of slots that run the compiled step together.

    Args:
        pipeline: the frozen model.
        config: with the model's defaults filled in; what a concept has of its own plays no part here.
        slots: how many.
        bounds: what a slot has room for.
        mesh: of this host's devices; from `make_mesh` if None.

    Raises:
        UserError: if slots or batches cannot be divided over the mesh.
    """

    def __init__(
        self, pipeline: Pipeline, config: InversionConfig, slots: int, bounds: Bounds, mesh: Mesh | None = None
    ) -> None:
        self.config, self.slots, self.bounds = config, slots, bounds
        self.mesh = make_mesh(slots, config.batch_size) if mesh is None else mesh
        concepts, data = self.mesh.shape["concepts"], self.mesh.shape["data"]
        if slots % concepts or config.batch_size % data:
            raise UserError(
                f"{slots} slots of batch size {config.batch_size} cannot be divided over a mesh of {concepts} concepts "
                f"x {data} data: give multiples of these"
            )
        self.vocabulary_norm = pipeline.vocabulary_norms
        frozen = {name: network for name, network in pipeline.networks.items() if name != "vae"}
        norms = {name: jnp.float32(norm) for name, norm in self.vocabulary_norm.items()}
        self._frozen = jax.device_put((frozen, pipeline.schedule, norms), NamedSharding(self.mesh, PartitionSpec()))
        self._by_slot = NamedSharding(self.mesh, PartitionSpec("concepts"))
        self._run_chunk = chunk_program(compiled_config(config), self.mesh)
        # The arrays stay where they are, or the step would be compiled again.
        self._put = jax.jit(_put, donate_argnums=0, out_shardings=self._by_slot)
        self._occupied: tuple[SlotInputs, SlotState] | None = None  # the first concept's arrays tell all shapes

    def put(self, slot: int, prepared: Prepared, state: SlotState | None = None) -> None:
        """Begins a concept in a slot, or goes on with it; whatever was there is gone.

        Args:
            slot: which.
            prepared: the concept.
            state: from `read`, to go on from; its first step if None.

        Raises:
            UserError: if a slot has no room for it.
        """
        check_fit(prepared, self.bounds)
        inputs = _padded_inputs(prepared.inputs, self.bounds)
        state = state or _first_state(prepared, self.config)
        row = inputs, _padded_state(state, self.bounds.vectors)
        if self._occupied is None:
            self._occupied = jax.tree.map(self._empty, row)
        self._occupied = self._put(self._occupied, row, jnp.int32(slot))

    def clear(self, slot: int) -> None:
        """Leaves a slot empty: it takes no more steps."""
        inputs, state = self._arrays
        total_steps = self._put(inputs.total_steps, jnp.int32(0), jnp.int32(slot))
        self._occupied = inputs._replace(total_steps=total_steps), state

    def advance(self, num_steps: int) -> ChunkReport:
        """Runs a chunk in one dispatch.

        Args:
            num_steps: in [0, config.evaluate_every]; 0 only evaluates where that is due.

        Returns:
            what happened, once it has.
        """
        inputs, state = self._arrays
        state, log = self._run_chunk(*self._frozen, state, inputs, np.int32(num_steps))
        self._occupied = inputs, state
        log, failed, settled = jax.device_get((log, state.failed_step, state.settled))
        return ChunkReport(jax.tree.map(lambda rows: rows[: num_steps + 1], log), failed, settled)

    def read(self, slot: int, num_vectors: int) -> SlotState:
        """The state of the concept in a slot, in host memory and without padding."""
        return read_slot(jax.device_get(self._arrays[1]), slot, num_vectors)

    def vectors(self) -> dict[str, np.ndarray]:
        """Vectors of all slots with their padding, in host memory."""
        return jax.device_get(self._arrays[1].vectors)

    def snapshot(self) -> SlotState:
        """The state of all slots in host memory, which later steps do not touch."""
        return jax.tree.map(np.array, jax.device_get(self._arrays[1]))

    @property
    def _arrays(self) -> tuple[SlotInputs, SlotState]:
        assert self._occupied is not None, "put a concept into a slot first"
        return self._occupied

    def _empty(self, row: Any) -> Any:
        """As many rows as there are slots, like the given one but empty, each on its device."""
        if jnp.issubdtype(row.dtype, jax.dtypes.prng_key):
            rows = jax.random.wrap_key_data(jnp.zeros((self.slots, 2), jnp.uint32), impl="threefry2x32")
        else:
            rows = jnp.zeros((self.slots, *np.shape(row)), row.dtype)
        return jax.device_put(rows, self._by_slot)


def compiled_config(config: InversionConfig) -> InversionConfig:
    """The configuration less what the program does not read, so that a change of it compiles nothing."""
    default = InversionConfig()
    names = (
        "steps",
        "num_vectors",
        "seed",
        "checkpoint_every",
        "save_every",
        "preview_prompts",
        "preview_steps",
        "profile",
        "data",
        "bounds",
    )
    return dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=None),
        **{name: getattr(default, name) for name in names},
    )


def _put(rows: Any, row: Any, slot: jax.Array) -> Any:
    """Rows with one replaced; element by element, so that nothing moves between devices."""

    def replace(rows: jax.Array, row: jax.Array) -> jax.Array:
        here = (jnp.arange(len(rows)) == slot).reshape(-1, *(1 for _ in row.shape))
        return jnp.where(here, row[None], rows)

    return jax.tree.map(replace, rows, row)


def _first_state(prepared: Prepared, config: InversionConfig) -> SlotState:
    """One slot's state before the first step."""
    state = initial_state({name: vectors[None] for name, vectors in prepared.vectors.items()}, config)
    return jax.tree.map(lambda rows: np.asarray(rows[0]), state)


def _padded_inputs(inputs: SlotInputs, bounds: Bounds) -> SlotInputs:
    """One slot's inputs, with zeros for the pictures, prompts and vectors that it has not."""

    def pad(size: int) -> Any:
        return lambda leaf: _pad(leaf, size)

    return inputs._replace(
        latent_mean=_pad(inputs.latent_mean, bounds.pictures),
        latent_std=_pad(inputs.latent_std, bounds.pictures),
        prompts=jax.tree.map(pad(bounds.prompts), inputs.prompts),
        sizes=_pad(inputs.sizes, bounds.pictures),
        first_prompt=_pad(inputs.first_prompt, bounds.pictures),
        num_prompts=_pad(inputs.num_prompts, bounds.pictures),
        vector_mask=jax.tree.map(pad(bounds.vectors), inputs.vector_mask),
    )


def _padded_state(state: SlotState, vectors: int) -> SlotState:
    """One slot's state with zeros for the vectors that it has not; those are its only leaves with two axes."""
    return jax.tree.map(lambda leaf: _pad(leaf, vectors) if leaf.ndim == 2 else leaf, state)


def _pad(leaf: Any, size: int) -> np.ndarray:
    """The leaf with zeros after it along its first axis."""
    leaf = np.asarray(leaf)
    return np.pad(leaf, [(0, size - len(leaf)), *((0, 0) for _ in leaf.shape[1:])])
