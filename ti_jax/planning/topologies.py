"""The accelerators that `plan` knows. Imports no jax.

A topology is what one host has: hosts share a queue without talking to each other, so each host of a larger slice costs
what it costs alone.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ti_jax.errors import UserError


@dataclass(frozen=True)
class Chip:
    """One device."""

    platform: Literal["tpu", "cuda"]
    memory: int
    """Bytes; of a TPU those that a program can have."""
    flops: float
    """Peak of matrix products in bfloat16, in float16 where that is not to be had, operations a second."""
    bandwidth: float
    """Peak of its memory, bytes a second."""
    target: Mapping[str, int | str]
    """What else XLA's compiler wants to know of it."""
    capability: tuple[int, int] | None = None
    """Of CUDA, if it has it."""

    @property
    def program_memory(self) -> int:
        """Bytes that a program can have: JAX takes a part of a GPU's memory and no more (`jaxlib/xla_client.py`)."""
        if self.platform == "tpu":
            return self.memory
        given = os.environ.get("XLA_CLIENT_MEM_FRACTION") or os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION")
        return int(self.memory * float(given or 0.75))


@dataclass(frozen=True)
class Topology:
    """The devices of a host."""

    name: str
    chip: Chip
    shape: tuple[int, ...]
    """Devices along each axis."""

    @property
    def size(self) -> int:
        """How many devices."""
        return math.prod(self.shape)


# Peaks: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. Memory: what XLA for TPU says is available, less than the 32, 16,
# 95 and 32 GB of those pages.
_GIB = 2**30
_TPUS = {
    "v4": Chip("tpu", int(30.75 * _GIB), 275e12, 1228e9, {"generation": "v4", "configuration": "megacore"}),
    "v5e": Chip("tpu", int(15.75 * _GIB), 197e12, 819e9, {"generation": "v5e", "configuration": "default"}),
    "v5p": Chip("tpu", int(95.74 * _GIB), 459e12, 2765e9, {"generation": "v5p", "configuration": "megacore"}),
    "v6e": Chip("tpu", int(31.25 * _GIB), 918e12, 1640e9, {"generation": "v6e", "configuration": "default"}),
}
# Peaks: NVIDIA's data sheets of H100 SXM, H200 SXM, A100 SXM, L4 and T4, without sparsity. All else, memory and its
# bandwidth too: h100_sxm, h200, a100_sxm_80 and a100_sxm_40 of openxla/xla, xla/backends/gpu/target_config/specs/; of
# a T4 what CUDA says of the card. An L4's memory is an estimate: error correction takes some of its data sheet's 24 GB.
_HOPPER = {
    "core_count": 132,
    "fpus_per_core": 128,
    "clock_rate_ghz": "1.98",
    "l2_cache_size": 52_428_800,
    "shared_memory_per_core": 233_472,
    "shared_memory_per_block_optin": 232_448,
}
_AMPERE = {
    "core_count": 108,
    "fpus_per_core": 64,
    "clock_rate_ghz": "1.41",
    "l2_cache_size": 41_943_040,
    "shared_memory_per_core": 167_936,
    "shared_memory_per_block_optin": 166_912,
}
_ADA = {
    "core_count": 58,
    "fpus_per_core": 128,
    "clock_rate_ghz": "2.04",
    "l2_cache_size": 50_331_648,
    "shared_memory_per_core": 102_400,
    "shared_memory_per_block_optin": 101_376,
    "threads_per_core_limit": 1536,
}
_TURING = {
    "core_count": 40,
    "fpus_per_core": 64,
    "clock_rate_ghz": "1.59",
    "l2_cache_size": 4_194_304,
    "shared_memory_per_core": 65_536,
    "shared_memory_per_block_optin": 65_536,
    "threads_per_core_limit": 1024,
}
_GPUS = {
    "h200": Chip("cuda", 151_397_597_184, 989e12, 4800e9, _HOPPER, (9, 0)),
    "h100": Chip("cuda", 84_942_979_072, 989e12, 3352.32e9, _HOPPER, (9, 0)),
    "a100": Chip("cuda", 85_100_068_864, 312e12, 2039.04e9, _AMPERE, (8, 0)),
    "a100-40": Chip("cuda", 42_331_013_120, 312e12, 1555.2e9, _AMPERE, (8, 0)),
    "l4": Chip("cuda", 22 * _GIB, 121e12, 300e9, _ADA, (8, 9)),
    "t4": Chip("cuda", 15_843_721_216, 65e12, 320e9, _TURING, (7, 5)),
}
CHIPS: Mapping[str, Chip] = {**_TPUS, **_GPUS}
"""By the name that topologies begin with."""

# The names of v4 and v5p count cores, of which a chip has two.
_TPU_SHAPES = {
    "v4-8": (2, 2, 1),
    "v5p-8": (2, 2, 1),
    **{f"{kind}-1": (1, 1) for kind in ("v5e", "v6e")},
    **{f"{kind}-4": (2, 2) for kind in ("v5e", "v6e")},
    **{f"{kind}-8": (2, 4) for kind in ("v5e", "v6e")},
}
TOPOLOGIES: Mapping[str, Topology] = {
    **{name: Topology(name, _TPUS[name.split("-")[0]], shape) for name, shape in _TPU_SHAPES.items()},
    **{name: Topology(name, chip, (1, 1, 1)) for name, chip in _GPUS.items()},
    **{
        f"{name}x{count}": Topology(f"{name}x{count}", chip, (1, 1, count))
        for name, chip in _GPUS.items()
        for count in (2, 4, 8)
    },
}
"""By name."""


def topology(name: str) -> Topology:
    """A topology.

    Args:
        name: `v5e-8`, `h100`, `h100x8` and so on, in any case.

    Returns:
        its devices.

    Raises:
        UserError: if the name is not known.
    """
    if name.lower() in TOPOLOGIES:
        return TOPOLOGIES[name.lower()]
    near = difflib.get_close_matches(name.lower(), TOPOLOGIES, n=1)
    hint = f": did you mean {near[0]}?" if near else "."
    raise UserError(
        f"there is no topology {name!r}{hint} Give what one host has, since hosts work alone: {', '.join(TOPOLOGIES)}"
    )
