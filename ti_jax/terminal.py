"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ti_jax.inversion.result import Progress, QueueProgress

_SECONDS_BETWEEN_LINES = 10.0
_BARS_A_SECOND = 2.0  # rich draws ten, in a thread beside the run


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
        lines.end()
        return
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bar(*columns, console=console, refresh_per_second=_BARS_A_SECOND) as bar:
        task = bar.add_task("preparing; compiling takes a while", total=None)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total_steps,
                completed=progress.step,
                description=_describe(progress, speed),
            )

        yield show


@contextlib.contextmanager
def show_queue() -> Iterator[Callable[[QueueProgress], None]]:
    """A function to be called with each progress of a queue: a table of the slots on a terminal, lines elsewhere."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    speed = _Speed()
    if not console.is_terminal:
        lines = _Lines(console, speed)
        lines.print("preparing; compiling takes a while")
        yield lines.queue
        lines.end()
        return
    with Live("preparing; compiling takes a while", console=console) as live:
        yield lambda progress: live.update(_slots_table(progress, speed))


def _slots_table(progress: QueueProgress, speed: _Speed) -> Table:
    from rich.table import Table

    table = Table("slot", "concept", "step", "loss", "fixed set", "norm", title=_describe_queue(progress, speed))
    for slot, concept in enumerate(progress.slots):
        if concept is None:
            table.add_row(str(slot), "-")
            continue
        fixed = "" if concept.fixed_loss is None else f"{concept.fixed_loss:.4f}"
        step = f"{concept.step}/{concept.total_steps}"
        table.add_row(str(slot), concept.name, step, f"{concept.loss:.4f}", fixed, f"{concept.norm:.1f}")
    return table


def _describe_queue(progress: QueueProgress, speed: _Speed) -> str:
    under_way = [concept for concept in progress.slots if concept is not None]
    rate, steps_per_second = "", speed(progress.steps)
    if steps_per_second and under_way:
        left = timedelta(seconds=round(_steps_left(progress, under_way) / steps_per_second))
        rate = f"  {steps_per_second:.1f} steps/s of all, about {left} left"
    failed = f", {progress.failed} failed" if progress.failed else ""
    return (
        f"{progress.finished} of {progress.total} concepts finished{failed}, {len(under_way)} under way{rate}  "
        f"idle {progress.idle:.1%}"
    )


def _steps_left(progress: QueueProgress, under_way: Sequence[Progress]) -> float:
    """Of concepts under way, and of those that wait, which are taken to have as many as these."""
    waiting = progress.total - progress.finished - progress.failed - len(under_way)
    of_each = statistics.fmean(concept.total_steps for concept in under_way)
    return waiting * of_each + sum(concept.total_steps - concept.step for concept in under_way)


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
        self._unsaid: str | None = None

    def print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def __call__(self, progress: Progress) -> None:
        self._now_and_then(_describe(progress, self._speed))
        if progress.step == progress.total_steps:
            self.end()
            self.print("drawing pictures with the new word")

    def queue(self, progress: QueueProgress) -> None:
        self._now_and_then(_describe_queue(progress, self._speed))

    def end(self) -> None:
        """Prints the latest line, if that has not been done; where a run settles early, only its end says that."""
        if self._unsaid is not None:
            self.print(self._unsaid)
        self._unsaid = None

    def _now_and_then(self, line: str) -> None:
        self._unsaid = line
        if time.perf_counter() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.perf_counter()
            self.end()
