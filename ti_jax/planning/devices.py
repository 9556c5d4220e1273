"""Devices that are not here, as XLA's compilers know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from jax.experimental import topologies

from ti_jax.errors import UserError
from ti_jax.planning.topologies import Chip, Topology

# Of every GPU that is planned for. Field names: xla/stream_executor/device_description.proto.
_COMMON_TO_GPUS = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "shared_memory_per_block": 49_152,
    "registers_per_core_limit": 65_536,
    "registers_per_block_limit": 65_536,
    "block_dim_limit_x": 2_147_483_647,
    "block_dim_limit_y": 65_535,
    "block_dim_limit_z": 65_535,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
}


def has_compiler(platform: str) -> bool:
    """Whether the compiler for `tpu` or `cuda` is installed."""
    if platform == "tpu":
        return find_spec("libtpu") is not None
    return find_spec("jax_plugins") is not None and find_spec("jax_plugins.xla_cuda13") is not None


def devices_of(topology: Topology) -> Sequence[Any]:
    """Devices to compile for; nothing can be run on them.

    Args:
        topology: what a host has.

    Returns:
        one object a device, for `make_mesh`.

    Raises:
        UserError: if the compiler is not installed.
    """
    if not has_compiler(topology.chip.platform):
        extra = "plan-tpu" if topology.chip.platform == "tpu" else "plan-gpu"
        raise UserError(f'the compiler for {topology.name} is not installed: pip install "ti-jax[{extra}]"')
    return (_tpus if topology.chip.platform == "tpu" else _gpus)(topology)


def _tpus(topology: Topology) -> Sequence[Any]:
    target = topology.chip.target
    one = {"chips_per_host_bounds": (1, 1, 1), "num_slices": 1, "wrap": (False,) * 3}
    described = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{target['generation']}:{'x'.join(map(str, topology.shape))}",
        chip_config_name=target["configuration"],
        **(one if topology.size == 1 else {}),
    )
    return described.devices


def _gpus(topology: Topology) -> Sequence[Any]:
    described = topologies.get_topology_desc(
        platform="cuda",
        topology="x".join(map(str, topology.shape)),
        target_config=_target_config(topology.chip),
    )
    return described.devices


def _target_config(chip: Chip) -> str:
    """XLA's GpuTargetConfigProto as text."""
    assert chip.capability is not None
    major, minor = chip.capability
    capability: dict[str, int | str] = {"major": major, "minor": minor}
    if chip.capability >= (9, 0):
        capability["feature_extension"] = "ACCELERATED_FEATURES"
    device = {
        **_COMMON_TO_GPUS,
        **chip.target,
        "device_memory_size": chip.memory,
        "memory_bandwidth": int(chip.bandwidth),
        "cuda_compute_capability": capability,
    }
    versions = {"dnn_version_info": {"major": 9, "minor": 10}, "runtime_version": {"major": 13}}
    return _as_text({"gpu_device_info": device, "platform_name": '"CUDA"', **versions})


def _as_text(fields: Mapping[str, Any]) -> str:
    """A protocol buffer's text format."""
    return " ".join(
        f"{name} {{ {_as_text(value)} }}" if isinstance(value, Mapping) else f"{name}: {value}"
        for name, value in fields.items()
    )
