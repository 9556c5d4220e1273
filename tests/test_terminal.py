"""What a run says on stderr: lines, or a bar and a table on a terminal."""

import itertools

import pytest

from ti_jax import terminal
from ti_jax.inversion.result import Progress, QueueProgress


def _progress(step):
    return Progress("fox", step, 100, loss=0.1, norm=1.0, fixed_loss=None)


def _queue(finished):
    return QueueProgress([None], total=3, finished=finished, failed=0, steps=1, idle=0.0)


@pytest.fixture
def said(capsys):
    return lambda: capsys.readouterr().err.splitlines()


def test_a_run_to_its_last_step(said):
    with terminal.show_progress() as show:
        for step in (20, 40, 100):
            show(_progress(step))
        assert [line.split("  ")[0] for line in said()][1:] == [
            "step 20/100",
            "step 100/100",
            "drawing pictures with the new word",
        ]
    assert said() == []


def test_a_run_that_settles_early_says_where_it_ended(said):
    with terminal.show_progress() as show:
        for step in (20, 40, 60):
            show(_progress(step))
        assert [line.split("  ")[0] for line in said()][1:] == ["step 20/100"]
    assert [line.split("  ")[0] for line in said()] == ["step 60/100"]


def test_a_line_now_and_then(said, monkeypatch):
    monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_LINES", 0.0)
    with terminal.show_progress() as show:
        for step in (20, 40):
            show(_progress(step))
    assert [line.split("  ")[0] for line in said()][1:] == ["step 20/100", "step 40/100"]


def test_a_queue_says_how_it_ended(said):
    with terminal.show_queue() as show:
        for finished in (0, 2, 3):
            show(_queue(finished))
    assert [line.split(" concepts")[0] for line in said()][1:] == ["0 of 3", "3 of 3"]


def test_a_queue_says_how_long_it_will_take(said, monkeypatch):
    """One of four is done; at 10 steps a second the others have 55, 100 and 100 steps to take."""
    monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_LINES", 0.0)
    clock = itertools.count(step=0.5)  # asked three times a line
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with terminal.show_queue() as show:
        for step in (30, 45):
            show(QueueProgress([_progress(step), _progress(0)], total=4, finished=1, failed=0, steps=step, idle=0.0))
    assert "  10.0 steps/s of all, about 0:00:26 left  " in said()[-1]


def test_on_a_terminal(said, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with terminal.show_progress() as show:
        show(_progress(20))
    (bar,) = [line for line in said() if "step 20/100" in line][-1:]
    assert "loss 0.1000  norm 1.0 x vocabulary" in bar
    with terminal.show_queue() as show:
        show(QueueProgress([_progress(40), None], total=3, finished=1, failed=1, steps=1, idle=0.25))
    table = "\n".join(said())
    assert "1 of 3 concepts finished, 1 failed, 1 under way" in " ".join(table.split())
    assert "40/100" in table
