"""ti_jax against diffusers' textual_inversion example, and against a lean loop in PyTorch, in turn.

    python scripts/bench/random_model.py sd-1.5 /tmp/sd15
    python scripts/bench/against_diffusers.py /tmp/sd15 [--rounds 3] [--calls 3] [--jobs invert generate]
    python scripts/bench/against_diffusers.py ti_jax/bundled/tiny --batch-size 4 --calls 20

Every round runs each program once in a process of its own (`contestant.py`), so that they share whatever else the
machine does and each has its own peak memory. Prints a table and writes JSON: medians over all calls, the spread
(smallest to largest), ratios to the example by round, peak resident memory. Needs torch and diffusers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ti_jax.files import write_text

_CONTESTANT = Path(__file__).with_name("contestant.py")
_NAMES = {"invert": ("example", "lean", "ti_jax"), "generate": ("example", "ti_jax")}


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder in diffusers format")
    parser.add_argument("--jobs", nargs="+", choices=sorted(_NAMES), default=["invert", "generate"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=1, help="steps of a call, at most 100")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--sampling-steps", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", help="of the frozen networks")
    parser.add_argument(
        "--torch-products",
        choices=("float32", "bfloat16"),
        default="float32",
        help="PyTorch's on a CPU, in networks of float32; JAX_DEFAULT_MATMUL_PRECISION says ti_jax's",
    )
    parser.add_argument("--output", type=Path, default=Path("against_diffusers.json"))
    options = parser.parse_args()
    facts: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "device": options.device,
        "dtype": options.dtype,
        "torch_products": options.torch_products,
        "model": options.model,
        "chunk": options.chunk,
        "batch_size": options.batch_size,
        "sampling_steps": options.sampling_steps,
    }
    for job in options.jobs:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in _NAMES[job]}
        for _ in range(options.rounds):
            for name, own in runs.items():
                own.append(run(name, job, options))
                print(f"{job:>9} {name:>8} {json.dumps(own[-1])}", flush=True)
        facts[job] = summary(runs)
        print(table(facts[job]), flush=True)
        write_text(options.output, json.dumps(facts, indent=2) + "\n")


def run(name: str, job: str, options: argparse.Namespace) -> dict[str, Any]:
    """One program in one process."""
    flags = ("calls", "chunk", "batch_size", "sampling_steps", "device", "dtype", "torch_products")
    values = [text for flag in flags for text in (f"--{flag.replace('_', '-')}", str(getattr(options, flag)))]
    command = [sys.executable, str(_CONTESTANT), name, job, options.model, *values]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Medians, spreads and ratios to the example, by program."""
    medians = {name: [statistics.median(run["seconds"]) for run in own] for name, own in runs.items()}
    rows = []
    for name, own in runs.items():
        seconds = sorted(second for run in own for second in run["seconds"])
        ratios = sorted(example / mine for example, mine in zip(medians["example"], medians[name], strict=True))
        rows.append(
            {
                "name": name,
                "seconds": statistics.median(seconds),
                "spread": [seconds[0], seconds[-1]],
                "speed": statistics.median(ratios),
                "speed_spread": [ratios[0], ratios[-1]],
                "ready": statistics.median(run["ready"] for run in own),
                "peak_bytes": max(run["peak_bytes"] for run in own),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| | s a step or picture | spread | speed | by round | peak memory |", "|---|---|---|---|---|---|"]
    for row in rows:
        (low, high), (worst, best) = row["spread"], row["speed_spread"]
        lines.append(
            f"| {row['name']} | {row['seconds']:.3g} | {low:.3g}–{high:.3g} | {row['speed']:.2f} "
            f"| {worst:.2f}–{best:.2f} | {row['peak_bytes'] / 1e9:.1f} GB |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
