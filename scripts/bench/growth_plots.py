"""Prints and draws what `growth.py` found.

    python scripts/bench/growth_plots.py [--file docs/growth.json] [--images docs/images] [--model tiny]

Numbers and fitted lines go to the terminal, the plots to the folder of images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]
MEASURED = ("slots", "batch_size", "num_vectors", "steps")
COMPILED = ("slots", "resolution", "topology")


def main() -> None:
    """Reads the command line, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("docs/growth.json"))
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    parser.add_argument("--model", default="tiny", help="of what was compiled")
    options = parser.parse_args()
    facts = json.loads(options.file.read_text())
    show_measured(facts["measured"], options.images / "growth-measured.png")
    rows = [row for row in facts["compiled"] if row["model"] == options.model]
    show_compiled(rows, options.images / "growth-compiled.png")


def along(rows: Rows, axes: Sequence[str], axis: str) -> Rows:
    """The rows of one axis in its order: those that in all other axes are as the first row that has it."""
    rows = [row for row in rows if axis in row]
    others = [name for name in axes if name != axis and name in rows[0]]
    found = [row for row in rows if all(row[name] == rows[0][name] for name in others)]
    return sorted(found, key=lambda row: row[axis])


def straight(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """The line with the least squares: its start, its slope, and how far off a point is at most, over its value."""
    slope, start = np.polyfit(x, y, 1)
    off = np.abs(start + slope * np.asarray(x) - y) / y
    return float(start), float(slope), float(off.max())


def show_measured(facts: Mapping[str, Any], image: Path) -> None:
    """CPU seconds, which other programs beside it disturb least, with the straight lines that fit best."""
    print(f"measured on {facts['hardware']}, {facts['date']}, CPU seconds of all threads:")
    figure = Figure(figsize=(12, 3), layout="constrained")
    for panel, axis in zip(figure.subplots(1, len(MEASURED)), MEASURED, strict=True):
        rows = along(facts["rows"], MEASURED, axis)
        x = [row[axis] for row in rows]
        middle, least, most = ([f(row["cpu_seconds"]) for row in rows] for f in (statistics.median, min, max))
        for value, *seconds in zip(x, middle, least, most, strict=True):
            print("{} {}: {:.3f} ({:.3f} to {:.3f})".format(axis, value, *seconds))
        start, slope, off = straight(x, middle)
        print(f"{axis}: {start:.3f} and {slope:.4f} for each, at most {off:.1%} off")
        panel.errorbar(x, middle, (np.subtract(middle, least), np.subtract(most, middle)), fmt="o", capsize=3)
        panel.plot(x, start + slope * np.array(x), "--", color="tab:gray", linewidth=1)
        panel.set(xlabel=axis.replace("_", " "), ylabel=f"CPU seconds a {'run' if axis == 'steps' else 'step'}")
        panel.set_xticks(x)
        panel.set_ylim(bottom=0)
    figure.savefig(image, dpi=100)


def show_compiled(rows: Rows, image: Path) -> None:
    """What a step costs each device."""
    units = {"flops": 1e9, "bytes_accessed": 1e6, "memory_bytes": 1e6, "peak_bytes": 2**20}
    print(f"compiled: {rows[0]['model']}, batch {rows[0]['batch_size']}; in GFLOP, MB, MB and MiB:")
    for row in rows:
        costs = ", ".join(f"{name} {row[name] / unit:.4g}" for name, unit in units.items())
        print(f"{row['topology']}, {row['slots']} slots, {row['resolution']} px: {costs}, {row['collectives']}")
    panels = {"GFLOP": ["flops"], "MB": ["bytes_accessed", "memory_bytes"], "MiB held": ["peak_bytes"]}
    figure = Figure(figsize=(12, 8), layout="constrained")
    grid = figure.subplots(len(panels), len(COMPILED), sharey="row")
    for (label, costs), line in zip(panels.items(), grid, strict=True):
        for axis, panel in zip(COMPILED, line, strict=True):
            found = along(rows, COMPILED, axis)
            x = [row["devices" if axis == "topology" else axis] for row in found]
            for cost in costs:
                panel.loglog(x, [row[cost] / units[cost] for row in found], "o-", base=2, label=cost.replace("_", " "))
            panel.set(xlabel="devices" if axis == "topology" else axis, ylabel=f"{label}, of a device")
            panel.set_xticks(x, x)
            panel.yaxis.set_major_formatter("{x:g}")
    grid[1, 0].legend()
    figure.savefig(image, dpi=100)


if __name__ == "__main__":
    main()
