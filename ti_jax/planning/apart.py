"""Asks a process of its own to plan. Imports no jax."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Any

from ti_jax.config import InversionConfig, as_dict
from ti_jax.errors import UserError
from ti_jax.planning.topologies import topology as find_topology

logger = logging.getLogger(__name__)

ENVIRONMENT: Mapping[str, str] = {
    "JAX_PLATFORMS": "cpu",  # the plugins offer their topologies all the same
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # compilers do not mind each other's locks
    "XLA_FLAGS": "--xla_gpu_enable_cub_radix_sort=false",  # it would ask a GPU how much memory sorting takes
}
"""What has to be set before jax is imported."""


def plan(
    model: str,
    topology: str,
    config: InversionConfig,
    *,
    slots: int = 8,
    search: bool = True,
    dtype: str | None = None,
    options: Mapping[str, Any] | None = None,
    debug: bool = False,
) -> dict[str, Any]:
    """What a run of `invert-many` costs on hardware that is not here; takes minutes for a large model.

    Args:
        model: an architecture by name, such as `sd-1.5`, of which no weights are wanted; or what `load` takes.
        topology: `v5e-8`, `h100` and so on.
        config: what the run is configured by.
        slots: concepts learned at a time.
        search: whether to look for the most slots that fit.
        dtype: of the networks; None for what suits the device.
        options: other arguments of `pipeline.open_model`.
        debug: whether what the compilers say goes to stderr.

    Returns:
        the fields of `planning.plan.Plan` as JSON values.

    Raises:
        UserError: if the topology or the model is not known, or the compiler is not installed.
    """
    find_topology(topology)
    if slots < 1:
        raise UserError(f"{slots} slots are too few: give 1 or more")
    request = {
        "model": model,
        "topology": topology,
        "config": as_dict(config),
        "slots": slots,
        "search": search,
        "dtype": dtype,
        "options": dict(options or {}),
    }
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        command = [sys.executable, "-m", "ti_jax.planning.worker"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if debug else said,
            env=_environment(),
            text=True,
        )
        try:
            answer = _talk(process, request)
        finally:
            process.kill()
            process.wait()
        if answer is None:
            raise UserError(_why(process.returncode, said))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["plan"]


def _why(status: int, said: IO[str]) -> str:
    """Why there was no answer."""
    if status < 0:
        return (
            f"the compiler was ended by {signal.Signals(-status).name}: for Stable Diffusion it takes 7 GB and more of "
            "this machine's memory, so free some or take a larger one"
        )
    said.seek(0)
    last = (said.read().strip().splitlines() or [f"exit status {status}"])[-1]
    return f"the compiler failed: {last} (--debug shows all it said)"


def _environment() -> dict[str, str]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} {ENVIRONMENT['XLA_FLAGS']}"
    return {**os.environ, **ENVIRONMENT, "XLA_FLAGS": flags}


def _talk(process: subprocess.Popen[str], request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer to a request, if there is one."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin as stdin:
        json.dump(request, stdin)
    for line in process.stdout:
        message = json.loads(line)
        if "progress" not in message:
            return message
        logger.info("%s", message["progress"])
    process.wait()
    return None
