"""How the cost of learning grows: measured on the bundled model, and compiled for a TPU that is not here.

    python scripts/bench/growth.py measure [--rounds 4] [--file docs/growth.json]
    python scripts/bench/growth.py compile [--model tiny] [--slots 4 1 16 64] [--resolutions 64 128 256]
        [--topologies v5e-1 v5e-4 v5e-8] [--file docs/growth.json]

`measure` times optimiser steps against slots, batch and vectors, and whole runs against steps, all settings in turn;
what is compiled or evaluated before the first step is no part of a step. `compile` plans the model (batch 4, bfloat16)
against slots, resolution and devices, which takes minutes a point; points that the file has are not compiled again.
Along one axis the others keep their first value. `growth_plots.py` prints and draws what is in the file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from many_concepts import pipeline_device

import ti_jax
from ti_jax.config import ConceptSpec, DataConfig, InversionConfig, with_model_defaults
from ti_jax.files import write_text

Axes = Mapping[str, Sequence[Any]]
STEP_AXES: Axes = {"slots": (1, 2, 4, 8), "batch_size": (4, 1, 2, 8), "num_vectors": (1, 2, 4, 8)}
RUN_AXES: Axes = {"steps": (10, 20, 40, 80)}
_STEPS_A_CALL = 3


def main() -> None:
    """Reads the command line, and measures or compiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("measure", "compile"))
    parser.add_argument("--file", type=Path, default=Path("docs/growth.json"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", default="tiny", help="to compile")
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 1, 16, 64])
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--topologies", nargs="+", default=["v5e-1", "v5e-4", "v5e-8"])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    facts: dict[str, Any] = json.loads(options.file.read_text()) if options.file.exists() else {}
    if options.part == "measure":
        facts["measured"] = measure(options.rounds)
        write(options.file, facts)
        return
    rows = facts.setdefault("compiled", [])
    axes = {"slots": options.slots, "resolution": options.resolutions, "topology": options.topologies}
    for setting in settings(axes):
        point = {"model": options.model, **setting}
        if not any(point.items() <= row.items() for row in rows):
            rows.append(compiled(**point))
            write(options.file, facts)


def write(file: Path, facts: Mapping[str, Any]) -> None:
    """Writes JSON."""
    write_text(file, json.dumps(facts, indent=1) + "\n")


def settings(axes: Axes) -> list[dict[str, Any]]:
    """Along each axis in turn with the first value of all others; no setting twice."""
    first = {name: values[0] for name, values in axes.items()}
    found = [first, *({**first, name: value} for name, values in axes.items() for value in values)]
    return [setting for i, setting in enumerate(found) if setting not in found[:i]]


def measure(rounds: int) -> dict[str, Any]:
    """Seconds of wall and of CPU that a step or a run took, by round."""
    pipeline = ti_jax.load("tiny")
    timed = [(setting, stepper(pipeline, **setting), _STEPS_A_CALL) for setting in settings(STEP_AXES)]
    timed += [(setting, runner(pipeline, **setting), 1) for setting in settings(RUN_AXES)]
    logging.info("compiled")
    rows = [{**setting, "seconds": [], "cpu_seconds": []} for setting, _, _ in timed]
    for i in range(rounds):
        for (_, call, parts), row in zip(timed, rows, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            row["seconds"].append((time.perf_counter() - wall) / parts)
            row["cpu_seconds"].append((time.process_time() - cpu) / parts)
        logging.info("round %d of %d", i + 1, rounds)
    hardware = f"{os.cpu_count()} CPU cores, {pipeline_device()}"
    return {"date": str(datetime.date.today()), "hardware": hardware, "rows": rows}


def stepper(
    pipeline: Any,
    slots: int,
    batch_size: int,
    num_vectors: int,
    *,
    steps: int = _STEPS_A_CALL,
    evaluate_every: int = 10**4,
) -> Callable[[], object]:
    """Takes a few optimiser steps of all slots; has compiled, and begins after the first step, with its evaluation."""
    from ti_jax.inversion.bounds import Bounds
    from ti_jax.inversion.engine import Engine
    from ti_jax.inversion.prepare import prepare

    config = InversionConfig(steps=10**6, batch_size=batch_size, num_vectors=num_vectors, evaluate_every=evaluate_every)
    config = with_model_defaults(config, pipeline.inversion_defaults)
    concept = prepare(pipeline, ConceptSpec("fox", "<fox>", "fox", "bundled:fox"), config)
    engine = Engine(pipeline, config, slots, Bounds.of(concept))
    for slot in range(slots):
        engine.put(slot, concept)
    engine.advance(1)
    return lambda: engine.advance(steps)


def runner(pipeline: Any, steps: int) -> Callable[[], object]:
    """Learns a concept with everything that belongs to it but files; has compiled."""

    def run(steps: int) -> None:
        config = InversionConfig(steps=steps)
        ti_jax.invert(pipeline, "bundled:fox", placeholder="<fox>", initializer="fox", config=config)

    run(1)
    return lambda: run(steps)


def compiled(model: str, slots: int, resolution: int, topology: str) -> dict[str, Any]:
    """What a step costs on hardware that is not here."""
    from ti_jax.planning.apart import plan

    config = InversionConfig(data=DataConfig(resolution=resolution))
    costs = plan(model, topology, config, slots=slots, search=False)
    return {**costs, "date": str(datetime.date.today())}


if __name__ == "__main__":
    main()
