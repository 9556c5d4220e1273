"""Concepts per hour against slots, and against one concept at a time.

    python scripts/bench/many_concepts.py FOLDER [--concepts 64] [--steps 50] [--slots 1 2 4 8 16] [--model tiny]

`FOLDER` holds folders of pictures, such as those that `scripts/base_model/write_held_out.py` writes. Every concept is
learned once alone by `ti_jax.invert`, and then by `ti_jax.invert_many` in each number of slots. Neither the first
concept alone nor the first chunk of a queue counts, since programs are compiled in them. Prints a table and writes
JSON: concepts per hour, the ratio to one at a time, the share of idle slots, and the largest difference of any vector
to the one learned alone, over its largest entry.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

import ti_jax
from ti_jax.config import ConceptSpec, InversionConfig
from ti_jax.data.sources import concepts_from_folder
from ti_jax.files import write_text


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--concepts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--output", type=Path, default=Path("many_concepts.json"))
    options = parser.parse_args()

    specs = concepts_from_folder(options.source)[: options.concepts]
    if len(specs) < 2:
        parser.error("two concepts at least: the first one's time is not counted")
    pipeline = ti_jax.load(options.model)
    config = InversionConfig(steps=options.steps, batch_size=options.batch_size)
    alone, seconds = one_at_a_time(pipeline, specs, config)
    rows = [{"slots": None, "concepts_per_hour": 3600 * len(specs) / seconds, "ratio": 1.0}]
    print_row(rows[0])
    facts = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}, {pipeline_device()}",
        "model": options.model,
        "concepts": len(specs),
        "steps": options.steps,
        "batch_size": options.batch_size,
    }
    for slots in options.slots:
        rows.append(in_slots(pipeline, specs, config, slots, alone, seconds))
        print_row(rows[-1])
        write_text(options.output, json.dumps({**facts, "rows": rows}, indent=2) + "\n")


def pipeline_device() -> str:
    """What jax computes on."""
    import jax

    return f"{len(jax.devices())} x {jax.devices()[0].device_kind}"


def one_at_a_time(
    pipeline: Any, specs: list[ConceptSpec], config: InversionConfig
) -> tuple[dict[str, np.ndarray], float]:
    """Vectors by name, and the seconds that all took after the first, scaled to all."""
    vectors = {}
    began = 0.0
    for i, spec in enumerate(specs):
        if i == 1:
            began = time.perf_counter()
        result = ti_jax.invert(
            pipeline,
            spec.pictures,
            placeholder=spec.placeholder,
            initializer=spec.initializer,
            name=spec.name,
            config=config,
        )
        vectors[spec.name] = np.asarray(result.concept.vectors["text_encoder"])
    return vectors, (time.perf_counter() - began) * len(specs) / (len(specs) - 1)


def in_slots(
    pipeline: Any,
    specs: list[ConceptSpec],
    config: InversionConfig,
    slots: int,
    alone: dict[str, np.ndarray],
    seconds_alone: float,
) -> dict[str, Any]:
    """One row of the table."""
    last: list[Any] = []
    started: list[float] = []

    def note(progress: Any) -> None:
        if not started:  # the first chunk, whose program is compiled before it runs
            started.extend((time.perf_counter(), progress.steps))
        last[:] = [progress]

    differences = []
    for result in ti_jax.invert_many(pipeline, specs, config=config, slots=slots, on_progress=note):
        name = result.concept.metadata["name"]
        vectors = np.asarray(result.concept.vectors["text_encoder"])
        differences.append(np.abs(vectors - alone[name]).max() / np.abs(alone[name]).max())
    # What is left after the first chunk, scaled to all steps.
    rest = (last[0].steps - started[1]) / last[0].steps
    if rest == 0:
        raise SystemExit(
            f"with {slots} slots all ended in the first chunk, which is not counted: more concepts or steps"
        )
    seconds = (time.perf_counter() - started[0]) / rest
    return {
        "slots": slots,
        "concepts_per_hour": 3600 * len(specs) / seconds,
        "ratio": seconds_alone / seconds,
        "idle": last[0].idle,
        "largest_difference": float(max(differences)),
    }


def print_row(row: dict[str, Any]) -> None:
    """A line of the table."""
    first = "one at a time" if row["slots"] is None else f"{row['slots']} slots"
    rest = "" if row["slots"] is None else f"  idle {row['idle']:.1%}  difference {row['largest_difference']:.1e}"
    print(f"{first:>14}  {row['concepts_per_hour']:8.0f} concepts/h  x {row['ratio']:.2f}{rest}", flush=True)


if __name__ == "__main__":
    main()
