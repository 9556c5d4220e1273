"""What recording and showing a run costs, on the bundled model.

    python scripts/bench/logging_cost.py [--steps 120] [--turns 5]

Learns a concept with a run folder and the progress bar of a terminal, as `ti-jax invert` does, and with neither, in
turn. What is compared is from the end of the first chunk of steps to the end of the last, a checkpoint included; what
is drawn after them is no logging. Such a ratio drowns in the noise of a busy machine, so the logged runs also take the
time inside of the calls that measure, note, warn, show and write, over that of the chunks of steps; and the bar, which
draws itself beside the run, is left to itself for a while.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from many_concepts import pipeline_device

import ti_jax
from ti_jax.config import InversionConfig
from ti_jax.inversion.checkpoint import Checkpoints
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.job import Job
from ti_jax.inversion.loop import Loop
from ti_jax.terminal import show_progress

Call = tuple[type, str]
LOGGING: Sequence[Call] = (
    (Engine, "vectors"),
    (Job, "record"),
    (Job, "diagnose"),
    (Job, "write_metrics"),
    (Loop, "_report"),
)
CHECKPOINT: Call = (Checkpoints, "save")
CHUNK: Call = (Engine, "advance")
_IDLE_SECONDS = 5.0


def main() -> None:
    """Reads the command line, measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    os.environ["FORCE_COLOR"] = "1"  # shows the bar though nobody looks
    pipeline = ti_jax.load("tiny")
    learn(pipeline, 1, logged=True)  # compiles
    print(f"{os.cpu_count()} CPU cores, {pipeline_device()}; {options.turns} turns of {options.steps} steps")

    ratios, shares = [], []
    for turn in range(options.turns):
        order = (True, False) if turn % 2 else (False, True)  # who is first may have it easier
        took, inside = {}, {}
        for logged in order:
            with clocks() as inside[logged]:
                took[logged] = learn(pipeline, options.steps, logged=logged)
        spent = inside[True]
        ratios.append([a / b for a, b in zip(took[True], took[False], strict=True)])
        shares.append([sum(spent[call] for call in LOGGING) / spent[CHUNK], spent[CHECKPOINT] / spent[CHUNK]])
    for name, values in zip(("seconds", "CPU seconds"), zip(*ratios, strict=True), strict=True):
        print(f"{name}, logged over not: {spread(values, '.3f')}")
    for name, values in zip(("logging", "checkpoints"), zip(*shares, strict=True), strict=True):
        print(f"inside of {name} over chunks of steps: {spread(values, '.3%')}")
    print(f"the bar by itself: {bar_alone():.2%} of a core")


def spread(values: Sequence[float], form: str) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


@contextlib.contextmanager
def clocks() -> Iterator[dict[Call, float]]:
    """Seconds inside of each call, for as long as the context lasts."""
    spent = dict.fromkeys((*LOGGING, CHECKPOINT, CHUNK), 0.0)

    def clocked(call: Call) -> Callable[..., Any]:
        function = getattr(*call)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            spent[call] += time.perf_counter() - began
            return result

        return timed

    with contextlib.ExitStack() as stack:
        for call in spent:
            stack.enter_context(mock.patch.object(*call, clocked(call)))
        yield spent


def learn(pipeline: Any, steps: int, *, logged: bool) -> tuple[float, float]:
    """Seconds, and CPU seconds of all threads, from the end of the first chunk to the end of the last."""
    ends = []

    def note() -> bool:
        ends.append((time.perf_counter(), time.process_time()))
        return False

    with contextlib.ExitStack() as stack:
        more: dict[str, Any] = {}
        if logged:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            more = {"output": f"{folder}/run", "on_progress": stack.enter_context(show_progress())}
        ti_jax.invert(
            pipeline,
            "bundled:fox",
            placeholder="<fox>",
            initializer="fox",
            config=InversionConfig(steps=steps, preview_steps=1),
            should_stop=note,
            **more,
        )
    return ends[-1][0] - ends[0][0], ends[-1][1] - ends[0][1]


def bar_alone() -> float:
    """Share of a core that the bar takes where nothing else runs."""
    with contextlib.redirect_stderr(io.StringIO()), show_progress():
        began = time.process_time()
        time.sleep(_IDLE_SECONDS)
        return (time.process_time() - began) / _IDLE_SECONDS


if __name__ == "__main__":
    main()
