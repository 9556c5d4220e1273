"""Seconds that JAX compiles in the first start of a configuration, and in the second, which finds its programs kept.

    python scripts/bench/second_start.py [--model tiny] [--rounds 3]

Each round begins with an empty folder of compiled programs and learns one step of a bundled concept twice, each time in
a process of its own. What is counted is JAX's own event of compiling or fetching a program, over all programs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

_RUN = """
import sys, jax, ti_jax
seconds = []
def listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        seconds.append(duration)
jax.monitoring.register_event_duration_secs_listener(listen)
pipeline = ti_jax.load(sys.argv[1])
config = ti_jax.InversionConfig(steps=1)
ti_jax.invert(pipeline, "bundled:fox", placeholder="<fox>", initializer="fox", config=config)
print(sum(seconds))
"""


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    firsts, seconds = zip(*(one_round(options.model) for _ in range(options.rounds)), strict=True)
    ratios = [second / first for first, second in zip(firsts, seconds, strict=True)]
    print(f"first start {statistics.median(firsts):.1f} s, second {statistics.median(seconds):.1f} s")
    print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def one_round(model: str) -> tuple[float, float]:
    """Seconds of the first start and of the second."""
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        environment = {**kept, "XDG_CACHE_HOME": folder}
        command = [sys.executable, "-c", _RUN, model]
        first, second = (
            float(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout) for _ in range(2)
        )
    return first, second


if __name__ == "__main__":
    main()
