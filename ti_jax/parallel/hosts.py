"""Hosts as islands: which one this is, and which concepts are its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ti_jax.errors import UserError


class Host(NamedTuple):
    """One of the processes that share a queue."""

    index: int
    """In [0, count)."""
    count: int


ALONE = Host(0, 1)

A_MONTH = 30 * 24 * 60 * 60
"""In seconds."""


def share(names: Sequence[str], host: Host) -> list[str]:
    """The concepts that a host learns, without a word to the others.

    Args:
        names: of all concepts, which differ.
        host: which.

    Returns:
        its names in the given order. The shares of all hosts are disjoint, cover all names, and differ in size by at
        most one. What one of N hosts left unfinished spreads evenly over M hosts, since the number of hosts is hashed
        with the name.
    """

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"{host.count}:{name}".encode()).digest()

    own = set(sorted(names, key=rank)[host.index :: host.count])
    return [name for name in names if name in own]


def find_host(index: int | None, count: int | None, environment: Mapping[str, str] = os.environ) -> Host:
    """Which host this is.

    Args:
        index: as the user says; None if nothing was said.
        count: the same.
        environment: where Slurm's `srun` says it, by SLURM_PROCID and SLURM_STEP_NUM_TASKS, if the user does not.

    Returns:
        the host; the only one if nobody says anything.

    Raises:
        UserError: if only one of the two is given, or the index is not in [0, count).
    """
    if index is None and count is None:
        # SLURM_NTASKS says how many there could be, also to a lone process in an allocation that nothing else joins.
        index = int(environment.get("SLURM_PROCID", 0))
        count = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if index is None or count is None:
        raise UserError("give --host and --hosts together: which process this is, from 0, and how many there are")
    if not 0 <= index < count:
        raise UserError(f"host {index} of {count}: --host counts from 0 to --hosts less one")
    return Host(index, count)


def join_slice(**options: Any) -> Host:
    """Joins the other workers of a TPU slice, whose runtime needs all of them.

    Nothing is exchanged afterwards, but where one worker dies the runtime may end the others. The service that would
    swallow SIGTERM is switched off, so that a handler set after this call saves the run. A worker that is done waits
    for the others to be done: if it waited for five minutes only, which is JAX's default, all would then be ended.

    Args:
        options: of `jax.distributed.initialize`; on a slice none are needed.

    Returns:
        this worker.
    """
    import jax

    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(**{"shutdown_timeout_seconds": A_MONTH, **options})
    return Host(jax.process_index(), jax.process_count())
