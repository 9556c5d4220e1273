"""A run whose pictures and results are in a bucket: a process that is told to end, and another that goes on.

The bucket is a server on this machine that speaks Cloud Storage's protocol, so that the real clients are used: gcsfs
for files and tensorstore for checkpoints.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
from PIL import Image

from ti_jax.concepts import formats
from ti_jax.errors import UserError
from ti_jax.inversion.run_folder import RunFolder

NAMES = ("newt", "owl", "wren")
SERVER = """
import sys
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import create_server

download = objects.download

def with_generation(request, response, storage, *args, **kwargs):
    # The real server names the generation, by which clients know that nobody else wrote in between.
    try:
        found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
        response["x-goog-generation"] = found["generation"]
    except objects.NotFound:
        pass
    download(request, response, storage, *args, **kwargs)

objects.download = with_generation
create_server("localhost", int(sys.argv[1]), in_memory=True, default_bucket="bucket").run()
"""
OPTIONS = ("--slots=2", "--batch-size=1", "--fixed-set-size=2", "--evaluate-every=2", "--checkpoint-every=2")


@pytest.fixture(scope="module")
def bucket():
    """Environment of processes that see `gs://bucket`."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stderr=subprocess.DEVNULL)
    while True:
        try:
            socket.create_connection(("localhost", port)).close()
            break
        except ConnectionRefusedError:
            assert server.poll() is None
            time.sleep(0.1)
    address = f"http://localhost:{port}"
    yield {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "NO_GCE_CHECK": "true",  # whether this is a machine of Google's, which takes seconds to find out
    }
    server.kill()
    server.wait()


@pytest.fixture
def command(sd2_twin, bucket):
    """`ti-jax invert-many gs://bucket/catalogue`, with other options after."""
    random = np.random.default_rng(0)
    for name in NAMES:
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "png")
        where = f"/upload/storage/v1/b/bucket/o?uploadType=media&name=catalogue/{name}/0.png"
        address = bucket["STORAGE_EMULATOR_HOST"] + where
        urllib.request.urlopen(urllib.request.Request(address, file.getvalue(), {"Content-Type": "image/png"})).close()
    verb = [sys.executable, "-m", "ti_jax.cli", "invert-many", "gs://bucket/catalogue"]
    return [*verb, "--init=cat", f"--model={sd2_twin[1].source}", "--dtype=float32", *OPTIONS]


def _read(environment, name):
    """A file of the bucket, past the clients."""
    object_ = urllib.parse.quote(name, safe="")
    with urllib.request.urlopen(
        f"{environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/bucket/o/{object_}?alt=media"
    ) as reply:
        return reply.read()


def test_resume_from_a_bucket(bucket, command, tmp_path):
    environment = {**os.environ, **bucket}
    options = ["--output=gs://bucket/runs", "--json"]
    process = subprocess.Popen(
        [*command, "--steps=2000", *options], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any("under way" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 143, error
    assert time.monotonic() - told < 30
    stopped = [int(part.split()[0]) for part in error.splitlines()[-1].split("step ")[1:]]
    assert not list(tmp_path.glob("gs*"))
    done = subprocess.run(
        [*command, f"--steps={max(stopped) + 4}", *options, "--resume"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout)["finished"]) == list(NAMES)
    results = [json.loads(line) for line in _read(bucket, "runs/results.jsonl").splitlines()]
    assert [(line["name"], line["status"]) for line in results] == [(name, "finished") for name in NAMES]
    for name in NAMES:
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(_read(bucket, f"runs/{name}/learned_embeds.safetensors"))
        assert np.isfinite(formats.read_all(file)[0].vectors["text_encoder"]).all()
        assert len(_read(bucket, f"runs/{name}/metrics.jsonl").splitlines()) == max(stopped) + 5
    assert f"resumed at step {stopped[0]} of" in done.stderr


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://else/run cannot be reached \(.*gcsfs.*: pip install 'ti-jax\[gcs\]'"):
        RunFolder("gs://else/run")


def test_pictures_go_to_a_bucket(bucket, tmp_path):
    """Where there is no folder before there is a file in it."""
    code = """
import numpy as np
from ti_jax.output import write_pictures
settings = {"negative_prompt": "", "steps": 1, "sampler": "ddim", "guidance": 1.0, "seed": 0, "model": "tiny"}
for _ in range(2):
    print(write_pictures("gs://bucket/new", np.zeros((1, 8, 8, 3), np.uint8), ["a cat"], settings))
"""
    environment = {**os.environ, **bucket}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["['gs://bucket/new/0000.png']", "['gs://bucket/new/0001.png']"], done.stderr
    assert Image.open(io.BytesIO(_read(bucket, "new/0001.png"))).size == (8, 8)
