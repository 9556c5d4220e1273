"""Runs of the `ti-jax` command that are told to end, and the statuses of processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import ti_jax
from ti_jax import terminal


def _bits(folder):
    return ti_jax.Concept.load(folder / "learned_embeds.safetensors").vectors["text_encoder"].tobytes()


@contextlib.contextmanager
def _signal_at_step_2(number):
    yield lambda progress: os.kill(os.getpid(), number) if progress.step == 2 else None


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_resume_finishes(invert, finished, tmp_path, monkeypatch, caplog, number, expected):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(terminal, "show_progress", lambda: _signal_at_step_2(number))
        status, out, error = invert()
    assert (status, out) == (expected, "")
    assert error.splitlines()[-1] == "ti-jax: stopped with fox at step 2 of 4; go on with --resume"
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    status, _, error = invert("--resume")
    assert status == 0, error
    assert "resumed at step 2 of 4" in caplog.text
    assert _bits(tmp_path / "runs/fox") == _bits(finished)


@pytest.mark.slow
def test_a_process_that_is_told_to_end(config, finished, tmp_path):
    """The same from outside: in another process, whenever the signal comes."""
    arguments = ["bundled:fox", "--token", "<fox>", "--init", "cat", f"--config={config}", "--steps=2000", "--json"]
    command = [sys.executable, "-m", "ti_jax.cli", "invert", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoints = tmp_path / "runs/fox/checkpoints"
    while not (checkpoints.exists() and any(checkpoints.iterdir())):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert out == ""
    stopped = int(error.splitlines()[-1].split("step ")[1].split()[0])
    command = [argument.replace("2000", str(stopped + 2)) for argument in command]
    done = subprocess.run([*command, "--resume"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == stopped + 2


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--version"], 0), (["invert", "gone", "--token", "<a>", "--init", "b"], 1), (["invert", "--stepz"], 2)],
)
def test_statuses_of_a_process(tmp_path, arguments, status):
    done = subprocess.run(
        [sys.executable, "-m", "ti_jax.cli", *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert (done.stdout == "") == (status != 0)
