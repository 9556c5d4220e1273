"""Checkpoints of the slots' state, with orbax (its v1 API). The only file that imports it, since that takes a while."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath

from ti_jax.errors import UserError
from ti_jax.inversion.slots import SlotState

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

    def save(self, step: int, state: SlotState, identity: dict[str, Any]) -> None:
        """Begins to write a checkpoint and returns; a failure to write the one before is raised here.

        Args:
            step: names it; one that exists is left alone.
            state: a copy, which nothing changes or takes over afterwards.
            identity: JSON values that say what run this is, kept in the checkpoint.
        """
        if step != self.latest_step:
            self._checkpointer.save_async(step, state, custom_metadata=identity)

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        self._checkpointer.wait()

    def load(self, like: SlotState) -> SlotState:
        """The newest checkpoint.

        Args:
            like: a state of the same structure and shapes.

        Returns:
            the state, on the device.

        Raises:
            UserError: if it cannot be read.
        """
        step = self.latest_step
        try:
            state: Any = self._checkpointer.load(step, jax.tree.map(np.asarray, like))
        except Exception as error:
            raise UserError(
                f"the checkpoint of step {step} in {self._checkpointer.directory} cannot be read "
                f"({type(error).__name__}): delete that step's folder to resume from the one before"
            ) from error
        # From host memory, so that the arrays are bound to no device, as those of a new run: nothing compiles again.
        return jax.tree.map(jnp.asarray, state)
