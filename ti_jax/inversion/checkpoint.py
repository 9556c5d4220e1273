"""Checkpoints of the slots' state, with orbax (its v1 API). The only file that imports it, since that takes a while."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

from ti_jax.config import InversionConfig
from ti_jax.errors import UserError
from ti_jax.inversion.slots import SlotState, initial_state, read_slot

_KEEP = 2  # a save that is cut off leaves the one before


class Checkpoints:
    """The checkpoints of a run, newest kept; a context manager that waits for what is being written.

    Args:
        folder: where they are, made if need be; a local or remote path.

    A checkpoint is written beside the others and renamed when it is whole, so a killed run never leaves half of one.
    """

    def __init__(self, folder: epath.PathLike) -> None:
        path = epath.Path(folder)
        self._checkpointer = ocp.training.Checkpointer(
            path if path.is_absolute() else path.resolve(),  # orbax wants it so; resolving spoils a remote path
            # Every save asked for is made: the loop knows the interval.
            # The policies of orbax name their arguments' types more widely than its own protocols.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # pyright: ignore
            preservation_policy=ocp.training.preservation_policies.LatestN(_KEEP),  # pyright: ignore
            cleanup_tmp_directories=True,
            context=_alone(),
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint; None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: SlotState, occupants: Mapping[int, tuple[str, int]]) -> None:
        """Begins to write a checkpoint and returns; a failure to write the one before is raised here.

        Args:
            step: names it; one that exists is left alone.
            state: of all slots, a copy in host memory.
            occupants: name and number of vectors of the concept in a slot, by slot.
        """
        if step != self.latest_step:
            metadata = {
                "occupants": [[slot, *occupant] for slot, occupant in occupants.items()],
                "vectors": {name: list(rows.shape) for name, rows in state.vectors.items()},
            }
            self._checkpointer.save_async(step, state, custom_metadata=metadata)

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        self._checkpointer.wait()

    def load(self, config: InversionConfig) -> dict[str, SlotState]:
        """What is in the newest checkpoint.

        Args:
            config: of the run; a slot's state has the shape that its optimiser and stopping rule give it.

        Returns:
            the state of each concept by name, in host memory, without padding and without the axis of slots; nothing
            if there is no checkpoint.

        Raises:
            UserError: if it cannot be read.
        """
        step = self.latest_step
        if step is None:
            return {}
        try:
            metadata: Any = self._checkpointer.metadata(step).custom_metadata
            vectors = {name: np.zeros(shape, np.float32) for name, shape in metadata["vectors"].items()}
            like = jax.tree.map(np.asarray, initial_state(vectors, config))
            state: Any = self._checkpointer.load(step, like)
        except Exception as error:
            raise UserError(
                f"the checkpoint of step {step} in {self._checkpointer.directory} cannot be read "
                f"({type(error).__name__}): delete that step's folder to resume from the one before"
            ) from error
        return {name: read_slot(state, slot, count) for slot, name, count in metadata["occupants"]}


def _alone() -> ocp.Context:
    """A process that saves without the others of its job, which are islands to it."""
    if jax.process_count() == 1:
        return ocp.Context()
    process = jax.process_index()
    return ocp.Context(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process-{process}"
        )
    )
