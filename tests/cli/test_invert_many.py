"""`ti-jax invert-many`: what it says and writes, its statuses, and runs that end early."""

import contextlib
import json
import os
import signal

import numpy as np
import pytest
import yaml
from PIL import Image

import ti_jax
from ti_jax import terminal
from ti_jax.cli import InvertMany

QUICK = """
from ti_jax.config import BoundsConfig, DataConfig, InversionConfig

def get_config():
    return InversionConfig(
        steps=4, batch_size=1, evaluate_every=2, checkpoint_every=2, fixed_set_size=2, data=DataConfig(resolution=32),
        bounds=BoundsConfig(vectors=2),
    )
"""
NAMES = ("newt", "owl", "rook", "wren")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """A folder of four folders of pictures, and a file of settings."""
    folder = tmp_path_factory.mktemp("catalogue")
    random = np.random.default_rng(0)
    for name in NAMES:
        (folder / name).mkdir()
        (folder / name / "initializer.txt").write_text("cat")
        for i in range(2):
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def many(run, catalogue, tmp_path):
    """`ti-jax invert-many CATALOGUE --slots 2`, with other options after."""
    (tmp_path / "quick.py").write_text(QUICK)

    def many(*options, source=catalogue):
        return run("invert-many", source, "--config", "quick.py", "--slots", 2, *options)

    return many


def _vectors(file):
    return ti_jax.Concept.load(file).vectors["text_encoder"]


def test_a_folder_of_folders(many, tmp_path):
    status, out, error = many("--output", "all")
    assert status == 0, error
    assert out.startswith("learned 4 concepts: all/results.jsonl; slots were idle ")
    lines = [json.loads(line) for line in (tmp_path / "all/results.jsonl").read_text().splitlines()]
    assert [(line["name"], line["token"], line["status"]) for line in lines] == [
        (name, f"<{name}>", "finished") for name in NAMES
    ]
    assert _vectors(tmp_path / "all/owl/learned_embeds.safetensors").shape[0] == 1
    status, _, error = many("--output", "all")
    assert (status, error.count("--resume")) == (1, 1)
    status, out, _ = many("--output", "all", "--resume", "--json")
    assert status == 0
    assert json.loads(out) == {"finished": [], "failed": {}, "idle": 0.0, "results": "all/results.jsonl"}


def test_a_bad_concept_ends_in_status_1_and_a_summary(many, catalogue, tmp_path):
    concepts = [
        {"name": name, "token": f"<{name}>", "init": "cat", "pictures": str(catalogue / name)} for name in NAMES
    ]
    concepts[1]["pictures"] = str(tmp_path / "nowhere")
    concepts[3]["num_vectors"] = 2
    (tmp_path / "three.yaml").write_text(yaml.safe_dump({"concepts": concepts}))
    status, out, error = many("--json", source="three.yaml")
    assert status == 1
    summary = json.loads(out)
    assert (sorted(summary["finished"]), list(summary["failed"])) == (["newt", "rook", "wren"], ["owl"])
    assert error.splitlines()[-1].startswith("ti-jax: 1 concept(s) failed: owl (")
    assert _vectors(tmp_path / "runs/three/wren/learned_embeds.safetensors").shape[0] == 2


def test_hosts_have_their_shares(many, tmp_path):
    shares = []
    for host in range(2):
        status, out, error = many("--host", host, "--hosts", 2, "--output", "all", "--json")
        assert status == 0, error
        shares.append(json.loads(out)["finished"])
    assert sorted([*shares[0], *shares[1]]) == list(NAMES)
    assert len((tmp_path / "all/results.jsonl").read_text().splitlines()) == len(NAMES)


@pytest.mark.parametrize(
    ("folder", "source", "name"),
    [
        ("", "cats", "cats"),
        ("cats", ".", "cats"),
        ("cats/red", "..", "cats"),
        ("", "cats/red/..", "cats"),
        ("", "cats.yaml", "cats"),
        ("", "gs://bucket/cats.yaml", "cats"),
        ("", "gs://bucket/cats/", "cats"),
    ],
)
def test_the_default_output_is_named_after_the_source(tmp_path, monkeypatch, folder, source, name):
    (tmp_path / "cats/red").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / folder)
    assert InvertMany(source)._name() == name


def test_the_folder_of_the_runs_is_no_concept(tmp_path, monkeypatch):
    for folder in ("red", "runs/cats", "red/runs/cats"):
        (tmp_path / "cats" / folder).mkdir(parents=True)
    (tmp_path / "cats/red/0.png").touch()
    for inside, source, names in (("cats", ".", ["red"]), ("cats/red", "..", ["red", "runs"])):
        monkeypatch.chdir(tmp_path / inside)
        assert [spec.name for spec in InvertMany(source)._concepts("runs/cats")] == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slots", "0"], "give 1 or more"),
        (["--host", "2", "--hosts", "2"], "host"),
        (["--tfds", "mnist"], "name a folder of folders or a YAML file, or a data set"),
    ],
)
def test_wrong_options(many, options, message):
    status, out, error = many(*options)
    assert (status, out) == (1, "")
    assert message in error


def test_a_signal_saves_and_resume_finishes(many, monkeypatch, tmp_path):
    assert many("--output", "whole")[0] == 0

    def signal_at_once(_):
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(terminal, "show_queue", lambda: contextlib.nullcontext(signal_at_once))
        status, out, error = many("--output", "parts")
    assert (status, out) == (143, "")
    assert error.splitlines()[-1].endswith("go on with --resume")
    assert many("--output", "parts", "--resume")[0] == 0
    for name in NAMES:
        whole, parts = (_vectors(tmp_path / run / name / "learned_embeds.safetensors") for run in ("whole", "parts"))
        np.testing.assert_array_equal(parts, whole)
