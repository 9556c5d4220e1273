"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
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
        yield _Lines(console, speed)
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=None)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total_steps,
                completed=progress.step,
                description=_describe(progress, speed),
            )

        yield show


class _Speed:
    """Steps a second since the first report, which holds the compilation."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def __call__(self, step: int) -> str:
        now = time.perf_counter()
        if self._first is None:
            self._first = now, step
            return "-"
        began, first = self._first
        return f"{(step - first) / (now - began):.1f}"


def _describe(progress: Progress, speed: _Speed) -> str:
    fixed = "" if progress.fixed_loss is None else f" (fixed set {progress.fixed_loss:.4f})"
    return (
        f"step {progress.step}/{progress.total_steps}  loss {progress.loss:.4f}{fixed}  "
        f"norm {progress.norm:.1f} x vocabulary  {speed(progress.step)} steps/s"
    )


class _Lines:
    """A line now and then, and one at the end."""

    def __init__(self, console: Console, speed: _Speed) -> None:
        self._console, self._speed = console, speed
        self._last = float("-inf")

    def __call__(self, progress: Progress) -> None:
        line = _describe(progress, self._speed)
        if time.perf_counter() - self._last >= _SECONDS_BETWEEN_LINES or progress.step == progress.total_steps:
            self._last = time.perf_counter()
            self._console.print(line, soft_wrap=True, highlight=False)
