"""Hosts as islands: which one this is, and which concepts are its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple


class Host(NamedTuple):
    """One of the processes that share a queue."""

    index: int
    """In [0, count)."""
    count: int


ALONE = Host(0, 1)


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
