"""What stopping early by DVAR saves, and what the loss that it watches costs.

    python scripts/bench/early_stopping.py FOLDER [--concepts 8] [--steps 500] [--model tiny]

Learns the concepts of a folder of folders, such as `scripts/base_model/write_held_out.py` writes, with and without the
rule, and says for each where it stopped, and its loss on the fixed set there beside the one at the end of all steps.
The cost is the time of 20 optimiser steps of batch 4 with the loss on the fixed set once over that of 20 without.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from contestant import timed
from growth import stepper
from many_concepts import pipeline_device

import ti_jax
from ti_jax.config import ConceptSpec, InversionConfig, StoppingConfig
from ti_jax.data.sources import concepts_from_folder
from ti_jax.files import write_text

_TURNS, _EVERY = 8, 20


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--concepts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--output", type=Path, default=Path("early_stopping.json"))
    options = parser.parse_args()
    specs = concepts_from_folder(options.source)[: options.concepts]
    pipeline = ti_jax.load(options.model)
    config = InversionConfig(steps=options.steps)
    whole = learn(pipeline, specs, config)
    early = learn(pipeline, specs, replace(config, stopping=StoppingConfig(rule="dvar")))
    rows = []
    for name, full in whole.items():
        stopped = early[name].history
        rows.append(
            {
                "name": name,
                "steps": stopped.steps,
                "fixed_loss": stopped.fixed_loss[max(stopped.fixed_loss)],
                "fixed_loss_of_all_steps": full.history.fixed_loss[max(full.history.fixed_loss)],
                "fixed_loss_before": full.history.fixed_loss[0],
            }
        )
        print(rows[-1], flush=True)
    saved = 1 - statistics.mean(row["steps"] for row in rows) / options.steps
    costs = cost(pipeline)
    facts = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} CPU cores, {pipeline_device()}",
        "model": options.model,
        "budget": options.steps,
        "saved": saved,
        "cost": statistics.median(costs),
        "cost_spread": [min(costs), max(costs)],
    }
    print(facts)
    write_text(options.output, json.dumps({**facts, "rows": rows}, indent=2) + "\n")


def learn(pipeline: Any, specs: list[ConceptSpec], config: InversionConfig) -> dict[str, Any]:
    """Results by name."""
    results = ti_jax.invert_many(pipeline, specs, config=config, slots=4)
    return {result.concept.metadata["name"]: result for result in results}


def cost(pipeline: Any) -> list[float]:
    """Ratios of seconds of so many steps with one evaluation to those without, a pair in each turn."""
    with_loss, without = (stepper(pipeline, 1, 4, 1, steps=_EVERY, evaluate_every=n) for n in (_EVERY, 10**4))
    return [timed(with_loss) / timed(without) for _ in range(_TURNS)]


if __name__ == "__main__":
    main()
