"""`python -m ti_jax.planning.worker`: plans in a process of its own, whose environment is set before jax is imported.

A request comes as JSON on stdin. What goes out on stdout is JSON, a line each: `{"progress": ...}`, and in the end
`{"plan": ...}` or `{"error": ...}`. Compilers write what they like to stderr.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from typing import Any, TextIO

from ti_jax.config import BoundsConfig, DataConfig, InversionConfig, OptimizerConfig, StoppingConfig
from ti_jax.errors import UserError
from ti_jax.models.attention_gpu import planned_for
from ti_jax.pipeline import abstract_pipeline
from ti_jax.planning.abstract import open_architecture
from ti_jax.planning.devices import devices_of
from ti_jax.planning.plan import as_dict, plan
from ti_jax.planning.topologies import topology


def main() -> None:
    """Answers the request."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a compiler's own words must not come between
    logging.basicConfig(level=logging.INFO, handlers=[_Progress(answers)])
    try:
        answer = {"plan": _answer(json.load(sys.stdin))}
    except UserError as error:
        answer = {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": f"the compiler failed with {type(error).__name__}: {error} (--debug shows where)"}
    print(json.dumps(answer), file=answers)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    where = topology(request["topology"])
    devices = devices_of(where)
    files = open_architecture(request["model"], **request["options"])
    pipeline = abstract_pipeline(request["model"], files, dtype=request["dtype"], device=devices[0])
    card = where.chip.capability
    with contextlib.nullcontext() if card is None else planned_for(card):
        costs = plan(
            pipeline,
            _config(request["config"]),
            where,
            devices,
            slots=request["slots"],
            search=request["search"],
        )
    return as_dict(costs)


def _config(values: dict[str, Any]) -> InversionConfig:
    parts = {"data": DataConfig, "optimizer": OptimizerConfig, "stopping": StoppingConfig, "bounds": BoundsConfig}
    return InversionConfig(**{**values, **{name: kind(**values[name]) for name, kind in parts.items()}})


class _Progress(logging.Handler):
    """Sends the messages of this package on."""

    def __init__(self, answers: TextIO) -> None:
        super().__init__()
        self.answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one."""
        if record.name.startswith("ti_jax"):
            print(json.dumps({"progress": record.getMessage()}), file=self.answers)


if __name__ == "__main__":
    main()
