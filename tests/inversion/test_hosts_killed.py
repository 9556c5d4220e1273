"""Processes that share a queue are islands: what is killed is taken up again, and nobody else minds.

Processes compile the same program, so they share a compilation cache here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import ti_jax
from ti_jax.parallel.hosts import Host, share

NAMES = ("fox", "hare", "owl", "newt", "wren", "toad")

SCRIPT = """
import sys
import numpy as np
import ti_jax
from ti_jax.config import ConceptSpec, InversionConfig
from ti_jax.parallel.hosts import Host, join_slice

def learn(model, output, host, names, on_progress=None):
    rng = np.random.default_rng(0)
    pictures = {name: [rng.integers(0, 256, (32, 32, 3), np.uint8)] for name in names}
    specs = [ConceptSpec(name, f"<{name}>", "cat", pictures[name]) for name in names]
    config = InversionConfig(steps=60, batch_size=2, evaluate_every=2, fixed_set_size=2, checkpoint_every=4)
    list(ti_jax.invert_many(ti_jax.load(model, dtype="float32"), specs, config=config, slots=2, output=output,
                            resume=True, host=host, on_progress=on_progress))

if __name__ == "__main__":
    model, output, index, count, port, *names = sys.argv[1:]
    host = Host(int(index), int(count))
    if int(port):
        host = join_slice(coordinator_address=f"localhost:{port}", num_processes=host.count, process_id=host.index)
    learn(model, output, host, names, lambda progress: print(progress.steps, flush=True))
"""


@pytest.fixture
def start(sd2_twin, tmp_path):
    """Starts host I of N in a folder, on a number of devices, as part of a job if there is a port."""
    model, script, running = sd2_twin[1].source, tmp_path / "learn.py", []
    script.write_text(SCRIPT)

    def start(output, index, count, *, devices=1, port=0):
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
            "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        }
        command = [sys.executable, str(script), model, str(output), str(index), str(count), str(port), *NAMES]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def expected(start, tmp_path):
    """The vectors of a run of one process that nobody disturbs."""
    assert start(tmp_path / "whole", 0, 1).wait() == 0
    return _vectors(tmp_path / "whole")


def _vectors(output):
    files = {name: output / name / "learned_embeds.safetensors" for name in NAMES}
    return {
        name: np.asarray(ti_jax.Concept.load(file).vectors["text_encoder"])
        for name, file in files.items()
        if file.exists()
    }


def _assert_same(found, expected):
    assert set(found) == set(expected)
    for name, vectors in expected.items():
        np.testing.assert_allclose(found[name], vectors, rtol=0, atol=1e-5 * np.abs(vectors).max())


def _statuses(output):
    lines = map(json.loads, (output / "results.jsonl").read_text().splitlines())
    return {line["name"]: line["status"] for line in lines}


def _wait_for_steps(process, steps):
    while int(process.stdout.readline()) < steps:
        pass


def _free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_a_killed_host_leaves_the_others_alone(start, expected, tmp_path):
    output = tmp_path / "runs"
    hosts = [start(output, index, 2) for index in range(2)]
    _wait_for_steps(hosts[1], 20)
    hosts[1].kill()
    assert hosts[0].wait() == 0
    assert set(_statuses(output)) >= set(share(NAMES, Host(0, 2)))
    assert len(_vectors(output)) < len(NAMES)
    again = start(output, 0, 1)  # all that is left, on one host
    assert again.wait() == 0
    _assert_same(_vectors(output), expected)
    assert list(_statuses(output)) == list(NAMES)


@pytest.mark.slow
def test_a_slice_whose_coordinator_is_killed_goes_on(start, expected, tmp_path):
    output, port = tmp_path / "runs", _free_port()
    hosts = [start(output, index, 2, devices=2, port=port) for index in range(2)]
    for host in hosts:
        _wait_for_steps(host, 20)
    hosts[0].kill()
    assert hosts[1].wait() != 0  # the runtime ends it
    finished = len(_vectors(output))
    port = _free_port()
    hosts = [start(output, index, 2, devices=2, port=port) for index in range(2)]
    taken = [sum(1 for _ in host.stdout) for host in hosts]
    assert [host.wait() for host in hosts] == [0, 0]
    assert finished < len(NAMES)
    assert max(taken) > 0
    _assert_same(_vectors(output), expected)
    assert list(_statuses(output)) == list(NAMES)


@pytest.mark.slow
def test_killed_at_random_moments(start, expected, tmp_path):
    for trial in range(3):
        output = tmp_path / f"runs-{trial}"
        for delay in np.random.default_rng(trial).uniform(0, 2, 3):
            process = start(output, 0, 1)
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert start(output, 0, 1).wait() == 0
        _assert_same(_vectors(output), expected)
        assert list(_statuses(output)) == list(NAMES)
