"""Checkpoints of the slots' state, with orbax. The only file that imports it, since that takes a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy
from etils import epath
from orbax.checkpoint import future

from ti_jax.config import InversionConfig
from ti_jax.errors import UserError
from ti_jax.inversion.slots import Occupant, Saved, SlotState, initial_state, read_slot

_KEEP = 2  # a save that is cut off leaves the one before


class Checkpoints:
    """The checkpoints of a run, newest kept; a context manager that waits for what is being written.

    Args:
        folder: where they are, made if need be; a local or remote path.
        own: whether this process writes them; if it does, what a killed one left unfinished is deleted.

    A checkpoint is written beside the others and renamed when it is whole, so a killed run never leaves half of one.
    """

    def __init__(self, folder: epath.PathLike, *, own: bool = True) -> None:
        path = epath.Path(folder)
        path = path if path.is_absolute() else path.resolve()  # orbax wants it so; resolving spoils a remote path
        path.mkdir(parents=True, exist_ok=True)
        alone = _alone()
        # Not the Checkpointer of orbax's v1 API: it refuses a process that saves without the others of its job.
        options = ocp.CheckpointManagerOptions(
            create=False,
            max_to_keep=_KEEP,
            cleanup_tmp_directories=own,
            multiprocessing_options=alone,
        )
        handlers = {
            "state": _ArraysHandler(),
            "metadata": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        }
        self._manager = ocp.CheckpointManager(path, options=options, item_handlers=handlers)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: SlotState, occupants: Mapping[int, Occupant]) -> None:
        """Begins to write a checkpoint and returns; a failure to write the one before is raised here.

        Args:
            step: names it; one that exists is left alone.
            state: of all slots, a copy in host memory.
            occupants: the concepts, by slot.
        """
        if step != self.latest_step:
            metadata = {
                "occupants": [[slot, *occupant] for slot, occupant in occupants.items()],
                "vectors": {name: list(rows.shape) for name, rows in state.vectors.items()},
            }
            items = ocp.args.Composite(state=_Arrays(_by_path(state)), metadata=ocp.args.JsonSave(metadata))
            self._manager.save(step, args=items)

    def load(self, config: InversionConfig) -> list[Saved]:
        """What is in the newest checkpoint.

        Args:
            config: of the run; a slot's state has the shape that its optimiser and stopping rule give it.

        Returns:
            the state of each concept; nothing if there is no checkpoint.

        Raises:
            UserError: if it cannot be read.
        """
        step = self.latest_step
        if step is None:
            return []
        try:
            items = ocp.args.Composite(state=_Arrays(), metadata=ocp.args.JsonRestore())
            stored = self._manager.restore(step, args=items)
            metadata: Any = stored["metadata"]
            vectors = {name: np.zeros(shape, np.float32) for name, shape in metadata["vectors"].items()}
            state = _from_paths(stored["state"], initial_state(vectors, config))
        except Exception as error:
            raise UserError(
                f"the checkpoint of step {step} in {self._manager.directory} cannot be read "
                f"({type(error).__name__}): delete that step's folder to resume from the one before"
            ) from error
        occupants = {slot: Occupant(*occupant) for slot, *occupant in metadata["occupants"]}
        return [
            Saved(own.name, own.fingerprint, read_slot(state, slot, own.num_vectors)) for slot, own in occupants.items()
        ]


def _alone() -> ocp.options.MultiprocessingOptions:
    """A process that saves without the others of its job, which are islands to it."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process-{process}"
    )


_FILE = "state.safetensors"


class _ArraysHandler(ocp.AsyncCheckpointHandler):
    """Writes a slot state, which is small, as one file.

    Of arrays in host memory orbax's own handlers write those of a job's process 0 alone.
    """

    async def async_save(self, directory: epath.Path, args: _Arrays) -> list[future.Future]:
        async def write() -> None:
            (directory / _FILE).write_bytes(safetensors.numpy.save(dict(args.arrays)))

        return [future.CommitFutureAwaitingContractedSignals(write(), name="state")]

    def save(self, directory: epath.Path, args: _Arrays) -> None:
        (directory / _FILE).write_bytes(safetensors.numpy.save(dict(args.arrays)))

    def restore(self, directory: epath.Path, args: _Arrays) -> dict[str, np.ndarray]:
        return safetensors.numpy.load((directory / _FILE).read_bytes())


@ocp.args.register_with_handler(_ArraysHandler, for_save=True, for_restore=True)
@dataclass
class _Arrays(ocp.args.CheckpointArgs):
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def _by_path(state: SlotState) -> dict[str, np.ndarray]:
    """The leaves of a state by their places in the tree, in the order of rows, which safetensors takes for granted."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.ascontiguousarray(leaf) for path, leaf in leaves}


def _from_paths(arrays: Mapping[str, np.ndarray], like: SlotState) -> SlotState:
    """The state of such leaves; ValueError if they are not of the same shapes and types as those of `like`."""

    def find(path: Any, leaf: jax.Array) -> np.ndarray:
        array = arrays[jax.tree_util.keystr(path)]
        if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{jax.tree_util.keystr(path)} is {array.dtype} {list(array.shape)}")
        return array

    return jax.tree_util.tree_map_with_path(find, like)
