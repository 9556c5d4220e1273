"""Devices that are not here, as XLA's compilers know them."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
_CUDNN = (9, 10, 0)
_CUDA = (13, 0, 0)


def devices_of(topology: Topology) -> Sequence[Any]:
    """Devices to compile for; nothing can be run on them.

    Args:
        topology: what a host has.

    Returns:
        one object a device, for `make_mesh`.

    Raises:
        UserError: if the compiler is not installed.
    """
    return (_tpus if topology.chip.platform == "tpu" else _gpus)(topology)


def _tpus(topology: Topology) -> Sequence[Any]:
    if find_spec("libtpu") is None:
        raise UserError('planning for a TPU wants its compiler: pip install "ti-jax[plan-tpu]"')
    target = topology.chip.target
    one = {"chips_per_host_bounds": (1, 1, 1), "num_slices": 1, "wrap": (False,) * 3}
    described = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{target['generation']}:{'x'.join(map(str, topology.shape))}",
        chip_config_name=target["configuration"],
        **(one if math.prod(topology.shape) == 1 else {}),
    )
    return described.devices


def _gpus(topology: Topology) -> Sequence[Any]:
    if find_spec("jax_plugins") is None or find_spec("jax_plugins.xla_cuda13") is None:
        raise UserError('planning for a GPU wants its compiler: pip install "ti-jax[plan-gpu]"')
    described = topologies.get_topology_desc(
        platform="cuda",
        topology="x".join(map(str, topology.shape)),
        target_config=_target_config(topology.chip),
    )
    return described.devices


def _target_config(chip: Chip) -> str:
    """XLA's GpuTargetConfigProto as text."""
    fields = {
        **_COMMON_TO_GPUS,
        "device_memory_size": chip.memory,
        "memory_bandwidth": int(chip.bandwidth),
        **chip.target,
    }
    lines = [f"{name}{'' if str(value).startswith('{') else ':'} {value}" for name, value in fields.items()]
    dnn, runtime = (
        f"{{ major: {major} minor: {minor} patch: {patch} }}" for major, minor, patch in (_CUDNN, _CUDA)
    )
    return (
        f'gpu_device_info {{ {" ".join(lines)} }} platform_name: "CUDA" '
        f"dnn_version_info {dnn} runtime_version {runtime}"
    )


def let_cudnn_be_chosen(chip: Chip) -> None:
    """Lets jax take cuDNN's attention, about which it would ask a GPU and a library that are not here.

    Args:
        chip: that is planned for; of this process there is no other use afterwards.
    """
    from jax._src.cudnn import fused_attention_stablehlo as attention

    capability = 9 if "major: 9" in str(chip.target["cuda_compute_capability"]) else 8
    version = _CUDNN[0] * 10_000 + _CUDNN[1] * 100 + _CUDNN[2]
    replacements = {
        "check_cudnn_version": lambda: version,
        "check_compute_capability": lambda wanted: capability >= float(wanted),
        "is_cuda_compute_capability_equal": lambda wanted: capability == float(wanted),
    }
    for name, replacement in replacements.items():
        if hasattr(attention, name):
            setattr(attention, name, replacement)
