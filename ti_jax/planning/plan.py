"""Compiles what `invert-many` runs for devices that are not here, and reads in the program what it costs."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import Jaxpr

from ti_jax.config import InversionConfig, with_model_defaults
from ti_jax.inversion.bounds import Bounds
from ti_jax.inversion.engine import compiled_config
from ti_jax.inversion.step import STEP_SCOPE, chunk_program
from ti_jax.parallel.mesh import make_mesh
from ti_jax.pipeline import Pipeline
from ti_jax.planning.abstract import chunk_arguments, likely_bounds
from ti_jax.planning.arithmetic import Unknown, count_flops, find_scope
from ti_jax.planning.hlo import Program, Traffic
from ti_jax.planning.topologies import Topology

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a run costs; None where that is not known. All but `devices`, `slots` and `slots_that_fit` is of one device,
    and what is of a step is of one optimiser step of all its slots."""

    model: str
    topology: str
    devices: int
    """How many have work."""
    slots: int
    batch_size: int
    resolution: int
    num_vectors: int
    dtype: str
    fits: bool
    peak_bytes: int | None
    """The most that is held at a time: networks, slots, and what a step or an evaluation keeps for a while."""
    device_bytes: int
    """What a device has for programs."""
    flops: int | None
    """Of a step: additions and multiplications of matrix products and convolutions."""
    bytes_accessed: int | None
    """Of a step: operands and results of all kernels."""
    memory_bytes: int | None
    """Of these, what goes to the device's memory; the rest stays on the chip between kernels."""
    arithmetic_seconds: float | None
    """What `flops` takes at the device's peak."""
    memory_seconds: float | None
    """What `memory_bytes` take at the device's peak."""
    bound_seconds: float | None
    """The larger of these two: a step cannot be faster."""
    bound: str | None
    """Which it is: arithmetic or memory."""
    collectives: Mapping[str, Mapping[str, int]] | None
    """What a step exchanges with other devices: count and bytes by kind; nothing in it where there is nothing."""
    slots_that_fit: int | None
    """Of all devices together, with this batch size; None if it was not looked for."""
    compile_seconds: float
    source: str
    """Whose numbers these are."""


@dataclass(frozen=True)
class Compiled:
    """What one compilation tells, of one device; None where it does not."""

    fits: bool
    peak: int | None
    devices: int
    flops: int | None = None
    moved: Traffic | None = None
    collectives: Mapping[str, Mapping[str, int]] | None = None


def plan(
    pipeline: Pipeline, config: InversionConfig, topology: Topology, devices: Sequence[Any], *, slots: int, search: bool
) -> Plan:
    """What a run of `invert-many` costs on devices that are not here.

    Args:
        pipeline: the model, whose networks may be abstract.
        config: as the user gave it.
        topology: what the devices are.
        devices: from `devices_of(topology)`.
        slots: concepts learned at a time.
        search: whether to look for the most slots that fit, which compiles at least twice more.

    Returns:
        the costs.
    """
    began = time.perf_counter()
    config = with_model_defaults(config, pipeline.inversion_defaults)
    bounds, chip = likely_bounds(pipeline, config), topology.chip

    def compiled(slots: int) -> Compiled:
        logger.info("compiling for %d slots; this takes minutes for a large model", slots)
        result = compile_chunk(pipeline, config, slots, bounds, devices, chip.program_memory)
        held = "what it holds is not known" if result.peak is None else f"{result.peak / 2**30:.2f} GiB held"
        logger.info("%s with %d slots: %s", "fits" if result.fits else "does not fit", slots, held)
        return result

    asked = compiled(slots)
    most = most_slots(compiled, {slots: asked}, len(devices), chip.program_memory) if search else None
    seconds: dict[str, float] = {}
    if asked.flops is not None and asked.moved is not None:
        seconds = {"arithmetic": asked.flops / chip.flops, "memory": asked.moved.memory / chip.bandwidth}
    bound = max(seconds, key=seconds.__getitem__, default=None)
    return Plan(
        model=pipeline.source,
        topology=topology.name,
        devices=asked.devices,
        slots=slots,
        batch_size=config.batch_size,
        resolution=config.data.resolution or pipeline.resolution,
        num_vectors=bounds.vectors,
        dtype=pipeline.precision.compute,
        fits=asked.fits,
        peak_bytes=asked.peak,
        device_bytes=chip.program_memory,
        flops=asked.flops,
        bytes_accessed=None if asked.moved is None else asked.moved.total,
        memory_bytes=None if asked.moved is None else asked.moved.memory,
        arithmetic_seconds=seconds.get("arithmetic"),
        memory_seconds=seconds.get("memory"),
        bound_seconds=None if bound is None else seconds[bound],
        bound=bound,
        collectives=asked.collectives,
        slots_that_fit=most,
        compile_seconds=time.perf_counter() - began,
        source=f"compiled by XLA of jax {jax.__version__} for {devices[0].device_kind or topology.name}, not run",
    )


def compile_chunk(
    pipeline: Pipeline, config: InversionConfig, slots: int, bounds: Bounds, devices: Sequence[Any], memory: int
) -> Compiled:
    """Compiles a chunk of steps as the engine does.

    Args:
        pipeline: the model, whose networks may be abstract.
        config: with the model's defaults filled in.
        slots: concepts learned at a time.
        bounds: what a slot has room for.
        devices: of a topology.
        memory: bytes that each has.

    Returns:
        what the program tells.
    """
    mesh = make_mesh(slots, config.batch_size, devices)
    arguments = chunk_arguments(pipeline, config, slots, bounds, mesh)
    traced = chunk_program(compiled_config(config), mesh).trace(*arguments)
    flops = _flops(traced.jaxpr.jaxpr, "tpu" if devices[0].platform == "tpu" else "cuda")
    try:
        compiled = compile_lowered(traced.lower())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled(False, _peak_in(str(error)), mesh.size, flops)
    held, text = compiled.memory_analysis(), compiled.as_text()
    assert held is not None
    assert text is not None
    peak = held.peak_memory_in_bytes
    program = Program(text)
    step = program.branch(STEP_SCOPE)
    return Compiled(peak <= memory, peak, mesh.size, flops, program.traffic(step), program.collectives(step))


def compile_lowered(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles, for a GPU if need be with products by cuBLAS alone.

    Triton's are tiled by trial on the card; without one XLA takes tiles by a rule, and fails where they do not suit.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "output tile sizes" not in str(error):
            raise
        logger.info("compiling once more, without Triton, which has no tiles for a product")
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})


def _flops(jaxpr: Jaxpr, platform: str) -> int | None:
    try:
        return count_flops(find_scope(jaxpr, STEP_SCOPE), platform)
    except Unknown as reason:
        logger.warning("its arithmetic is not known: %s", reason)
        return None


def _peak_in(message: str) -> int | None:
    """The memory that a program would want, as the TPU's compiler says when there is less.

    In one number, or for each kind of core where a chip has two: https://openxla.org/xla/errors/error_1000.
    """
    found = re.findall(r"(?:Used|TensorCore Hbm usage:|SparseCore Hbm usage) ([\d.]+)([KMG])", message)
    return int(sum(float(size) * 2 ** {"K": 10, "M": 20, "G": 30}[unit] for size, unit in found)) or None


_TRIES = 4
_NEAR = 1.05  # further slots, as a ratio, that are not worth a compilation to confirm them


def most_slots(compiled: Callable[[int], Compiled], known: Mapping[int, Compiled], devices: int, memory: int) -> int:
    """The most slots that fit, in multiples of the number of devices.

    Memory grows by the same with each slot, or nearly: a line through two programs says how many slots fit, a third
    confirms it, and is the next guess's second point if it does not or if more than a few would fit beside it. The
    second program has as many slots as fit even if all that the first holds grew with them: far from the first.

    Args:
        compiled: compiles for a number of slots.
        known: what was compiled already.
        devices: how many.
        memory: bytes that each has.

    Returns:
        a number that was compiled and fits, where memory grows in a line at most 5 % below the most; 0 if not even one
        slot a device does.
    """
    tried = {slots: result for slots, result in known.items() if slots % devices == 0}

    def attempt(slots: int) -> Compiled:
        if slots not in tried:
            tried[slots] = compiled(slots)
        return tried[slots]

    def peaks() -> list[tuple[int, int]]:
        return sorted((slots, result.peak) for slots, result in tried.items() if result.peak is not None)

    first = attempt(devices)
    if not first.fits:
        return 0
    if len(peaks()) < 2:
        attempt(max(2, memory // (first.peak or memory)) * devices)
    for _ in range(_TRIES):
        most = max(slots for slots, result in tried.items() if result.fits)
        too_many = min((slots for slots, result in tried.items() if not result.fits), default=None)
        if too_many is not None and tried[too_many].peak is None:
            room = (most + too_many) / 2
        else:
            # A compiler may find a way to hold less of a few slots more, so a line through neighbours leads nowhere.
            (few, less), *_, (many, more) = peaks()[-2:] if too_many is not None else peaks()
            room = few + (memory - less) * (many - few) / max(more - less, 1)
        guess = max(devices, math.floor(room / devices) * devices)
        if guess in tried or most < guess <= _NEAR * most:
            break
        attempt(guess)
    return max(slots for slots, result in tried.items() if result.fits)


def as_dict(plan: Plan) -> dict[str, Any]:
    """JSON values."""
    return dataclasses.asdict(plan)
