"""The table of docs/plan.md: what Stable Diffusion costs on hardware that is not here.

    python scripts/bench/plan_table.py [--models sd-1.5 sd-2.1] [--topologies v5e-1 v5e-8 h100] [--slots 1]
        [--quick] [--file plans.json]

Each row is `ti-jax plan --batch-size 1` with so many slots a device. It compiles three times or more, or once if
`--quick`, for which a TPU's compiler takes many minutes and several GB a time. Rows that are in the file already are
taken from there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
from pathlib import Path
from typing import Any

from ti_jax.config import InversionConfig
from ti_jax.files import write_text
from ti_jax.planning.apart import plan
from ti_jax.planning.topologies import topology


def main() -> None:
    """Reads the command line, plans, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["sd-1.5", "sd-2.1"])
    parser.add_argument("--topologies", nargs="*", default=["v5e-1", "v5e-8", "h100"])
    parser.add_argument("--slots", nargs="*", type=int, default=[1], help="of each device")
    parser.add_argument("--file", type=Path, default=Path("plans.json"))
    parser.add_argument("--quick", action="store_true", help="do not look for the most slots that fit")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    rows: dict[str, Any] = json.loads(options.file.read_text()) if options.file.exists() else {}
    asked = [(m, t, n) for m in options.models for t in options.topologies for n in options.slots]
    for model, name, slots in asked:
        if _key(model, name, slots) not in rows:
            config, all_slots = InversionConfig(batch_size=1), slots * topology(name).size
            costs = plan(model, name, config, slots=all_slots, search=not options.quick)
            rows[_key(model, name, slots)] = {**costs, "date": str(datetime.date.today())}
            write_text(options.file, json.dumps(rows, indent=1) + "\n")
    print("\n".join(table([rows[_key(*row)] for row in asked])))


def _key(model: str, name: str, slots: int) -> str:
    return f"{model} {name} {slots}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """In Markdown."""
    titles = (
        "model", "devices", "slots", "GiB held, of", "TFLOP", "GB of memory", "GB in all", "ms: arithmetic, memory",
        "slots that fit", "compiled",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        times = ", ".join(_scaled(row[f"{name}_seconds"], 1e-3) for name in ("arithmetic", "memory"))
        cells = (
            f"{row['model']}, {row['resolution']} px",
            row["topology"],
            row["slots"],
            f"{_scaled(row['peak_bytes'], 2**30)}, {_scaled(row['device_bytes'], 2**30)}",
            _scaled(row["flops"], 1e12),
            _scaled(row["memory_bytes"], 1e9),
            _scaled(row["bytes_accessed"], 1e9),
            times,
            "?" if row["slots_that_fit"] is None else row["slots_that_fit"],
            row["date"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _scaled(number: float | None, unit: float) -> str:
    return "?" if number is None else f"{number / unit:.3g}"


if __name__ == "__main__":
    main()
