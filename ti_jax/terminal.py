"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ti_jax.inversion.result import Progress

_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """A function to be called with each progress of a run, for as long as the context lasts."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    speed = _Speed()
    if not console.is_terminal:
        lines = _Lines(console, speed)
        lines.print("preparing; compiling takes a while")
        yield lines
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("preparing; compiling takes a while", total=None)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total_steps,
                completed=progress.step,
                description=_describe(progress, speed),
            )

        yield show


class _Speed:
    """Steps a second: the median over the latest chunks, so that compiling, saving and previews do not count."""

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._speeds: deque[float] = deque(maxlen=15)

    def __call__(self, step: int) -> float | None:
        now = time.perf_counter()
        if self._last is not None:
            began, first = self._last
            self._speeds.append((step - first) / (now - began))
        self._last = now, step
        return statistics.median(self._speeds) if self._speeds else None


def _describe(progress: Progress, speed: _Speed) -> str:
    fixed = "" if progress.fixed_loss is None else f" (fixed set {progress.fixed_loss:.4f})"
    steps_per_second = speed(progress.step)
    rate = "" if steps_per_second is None else f"  {steps_per_second:.1f} steps/s"
    return (
        f"step {progress.step}/{progress.total_steps}  loss {progress.loss:.4f}{fixed}  "
        f"norm {progress.norm:.1f} x vocabulary{rate}"
    )


class _Lines:
    """A line now and then, and at the end."""

    def __init__(self, console: Console, speed: _Speed) -> None:
        self._console, self._speed = console, speed
        self._last = float("-inf")

    def print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def __call__(self, progress: Progress) -> None:
        line = _describe(progress, self._speed)
        if time.perf_counter() - self._last >= _SECONDS_BETWEEN_LINES or progress.step == progress.total_steps:
            self._last = time.perf_counter()
            self.print(line)
        if progress.step == progress.total_steps:
            self.print("drawing pictures with the new word")
