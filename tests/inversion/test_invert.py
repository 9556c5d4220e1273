"""A run from pictures to files: what it leaves, how it goes on, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ti_jax
from ti_jax.config import ConceptSpec, DataConfig, InversionConfig, OptimizerConfig, with_model_defaults
from ti_jax.errors import UserError
from ti_jax.inversion import job
from ti_jax.inversion.prepare import prepare
from ti_jax.inversion.result import Interrupted

CONFIG = InversionConfig(
    steps=12,
    batch_size=2,
    evaluate_every=4,
    fixed_set_size=4,
    checkpoint_every=5,
    save_every=6,
    preview_prompts=("a photo of {}",),
    preview_steps=2,
)


@pytest.fixture(scope="module")
def pipeline(sd1_twin):
    return sd1_twin[1]


def _invert(pipeline, output=None, config=CONFIG, **options):
    options = {"placeholder": "<fox>", "initializer": "cat", **options}
    return ti_jax.invert(pipeline, "bundled:fox", config=config, output=output, **options)


def _bits(concept):
    return np.asarray(concept.vectors["text_encoder"]).tobytes()


def _stop_at(step):
    """A `should_stop` that is true once a run has come to a step."""
    seen = []
    return {
        "on_progress": lambda progress: seen.append(progress.step),
        "should_stop": lambda: seen[-1] >= step,
    }


@pytest.fixture(scope="module")
def whole(pipeline, tmp_path_factory):
    """A run without interruption, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "fox"
    return _invert(pipeline, folder), folder


def test_what_a_run_leaves(whole):
    result, folder = whole
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
        "learned_embeds.safetensors",
        "fox.safetensors",
        "learned_embeds-best.safetensors",
        "learned_embeds-steps-6.safetensors",
        "learned_embeds-steps-12.safetensors",
        "previews",
        "loss.png",
        "contact_sheet.png",
        "result.json",
    }
    assert _bits(ti_jax.Concept.load(folder / "learned_embeds.safetensors")) == _bits(result.concept)
    assert _bits(ti_jax.Concept.load(folder / "fox.safetensors")) == _bits(result.concept)
    assert _bits(ti_jax.Concept.load(folder / "learned_embeds-best.safetensors")) == _bits(result.best)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(13))
    assert [line["step"] for line in lines if "fixed_loss" in line] == [0, 4, 8, 12]
    assert json.loads((folder / "config.json").read_text())["config"]["optimizer"]["learning_rate"] > 0


def test_writing_changes_nothing(pipeline, whole):
    assert _bits(_invert(pipeline).concept) == _bits(whole[0].concept)


def test_another_seed_or_name_draws_otherwise(pipeline, whole):
    for change in ({"config": replace(CONFIG, seed=1)}, {"name": "vixen"}):
        assert _invert(pipeline, **change).history.loss[0] != whole[0].history.loss[0]


def test_best_is_the_lowest_on_the_fixed_set(whole):
    result, _ = whole
    best = min(result.history.fixed_loss, key=result.history.fixed_loss.__getitem__)
    assert result.best.metadata["steps"] == str(best)


@pytest.mark.parametrize("step", [4, 10])
def test_resume_ends_with_the_same_bits(pipeline, whole, tmp_path, step):
    with pytest.raises(Interrupted):
        _invert(pipeline, tmp_path / "fox", **_stop_at(step))
    resumed = _invert(pipeline, tmp_path / "fox", resume=True)
    assert _bits(resumed.concept) == _bits(whole[0].concept)
    assert _bits(resumed.best) == _bits(whole[0].best)
    assert resumed.history == whole[0].history
    assert (tmp_path / "fox/metrics.jsonl").read_text() == (whole[1] / "metrics.jsonl").read_text()


def test_intervals_may_change_on_resume(pipeline, whole, tmp_path):
    with pytest.raises(Interrupted):
        _invert(pipeline, tmp_path / "fox", **_stop_at(5))
    other = replace(CONFIG, checkpoint_every=3, evaluate_every=7, save_every=0)
    resumed = _invert(pipeline, tmp_path / "fox", config=other, resume=True)
    assert _bits(resumed.concept) == _bits(whole[0].concept)


def test_more_steps_at_a_constant_rate(pipeline, whole, tmp_path):
    _invert(pipeline, tmp_path / "fox", config=replace(CONFIG, steps=6))
    resumed = _invert(pipeline, tmp_path / "fox", resume=True)
    assert _bits(resumed.concept) == _bits(whole[0].concept)
    with pytest.raises(UserError, match="is at step 12 already"):
        _invert(pipeline, tmp_path / "fox", config=replace(CONFIG, steps=6), resume=True)


def test_a_finished_run_is_left_alone(pipeline, whole):
    _, folder = whole
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix in (".png", ".safetensors")}
    assert _bits(_invert(pipeline, folder, resume=True).concept) == _bits(whole[0].concept)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": replace(CONFIG, seed=3)}, "seed: 0 -> 3"),
        ({"config": replace(CONFIG, batch_size=3)}, "batch_size: 2 -> 3"),
        (
            {"config": replace(CONFIG, optimizer=OptimizerConfig(learning_rate=0.5))},
            r"optimizer.learning_rate: .* -> 0.5",
        ),
        (
            {"config": replace(CONFIG, optimizer=OptimizerConfig(schedule="cosine"))},
            "schedule: constant -> cosine",
        ),
        ({"config": replace(CONFIG, data=DataConfig(prompts="style"))}, "prompts: "),
        ({"config": replace(CONFIG, data=DataConfig(resolution=64))}, "pictures"),
        ({"config": replace(CONFIG, num_vectors=2)}, "num_vectors"),
        ({"config": replace(CONFIG, fixed_set_size=8)}, "fixed_set_size: 4 -> 8"),
        ({"initializer": "dog"}, "initial_vectors: "),
        ({"placeholder": "<vixen>", "name": "fox"}, "placeholder: <fox> -> <vixen>"),
    ],
)
def test_a_resume_that_would_change_the_run_is_refused(pipeline, whole, change, named):
    with pytest.raises(UserError, match=named):
        _invert(pipeline, whole[1], resume=True, **change)


def test_a_folder_in_use_is_not_touched(pipeline, whole, tmp_path):
    with pytest.raises(UserError, match="--resume"):
        _invert(pipeline, whole[1])
    (tmp_path / "thesis.txt").write_text("years of work")
    for config in (None, '{"model_type": "clip"}', "torn"):  # which other programs write too
        if config is not None:
            (tmp_path / "config.json").write_text(config)
        with pytest.raises(UserError, match="not of a run"):
            _invert(pipeline, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").exists()


def test_a_folder_that_a_kill_left_at_the_start_is_taken(pipeline, whole, tmp_path):
    (tmp_path / ".config.json.1.partial").write_text("{")
    assert _bits(_invert(pipeline, tmp_path).concept) == _bits(whole[0].concept)


@pytest.mark.parametrize(("metrics", "refused"), [(None, False), ("torn\n", True)])
def test_a_checkpoint_without_its_measurements(pipeline, whole, tmp_path, metrics, refused):
    with pytest.raises(Interrupted):
        _invert(pipeline, tmp_path / "fox", **_stop_at(5))
    file = tmp_path / "fox/metrics.jsonl"
    if refused:
        file.write_text(metrics)
        with pytest.raises(UserError, match=r"metrics.jsonl is not what was written"):
            _invert(pipeline, tmp_path / "fox", resume=True)
    file.unlink()
    resumed = _invert(pipeline, tmp_path / "fox", resume=True)
    assert (_bits(resumed.concept), resumed.history) == (_bits(whole[0].concept), whole[0].history)


def test_no_previews(pipeline, whole, tmp_path):
    result = _invert(pipeline, tmp_path / "fox", config=replace(CONFIG, preview_prompts=()))
    assert _bits(result.concept) == _bits(whole[0].concept)
    left = {path.name for path in (tmp_path / "fox").iterdir()}
    assert {path.name for path in whole[1].iterdir()} - left == {"previews", "contact_sheet.png"}


def test_a_preview_that_cuts_the_word_off_is_told_before_anything_is_learned(pipeline, tmp_path):
    with pytest.raises(UserError, match="<fox>"):
        _invert(pipeline, tmp_path / "fox", config=replace(CONFIG, preview_prompts=("a " * 80 + "{}",)))
    assert not (tmp_path / "fox").exists()


def test_pictures_that_cannot_be_drawn_cost_nothing_else(pipeline, whole, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise MemoryError

    for name in ("contact_sheet", "draw"):
        monkeypatch.setattr(job, name, fail)
    assert _bits(_invert(pipeline, tmp_path / "fox").concept) == _bits(whole[0].concept)
    assert (tmp_path / "fox/result.json").exists()
    assert caplog.text.count("its pictures could not be drawn (MemoryError") == 3  # two previews and the sheet


def test_previews_that_can_never_be_drawn_are_told_before_learning(pipeline, tmp_path):
    with pytest.raises(UserError, match="preview-steps is 2000: this model takes 1000"):
        _invert(pipeline, tmp_path / "fox", config=replace(CONFIG, preview_steps=2000))
    assert not (tmp_path / "fox").exists()


def test_resuming_wants_a_folder(pipeline):
    for option in ("resume", "overwrite"):
        with pytest.raises(UserError, match="give output"):
            _invert(pipeline, **{option: True})


def test_a_damaged_checkpoint(pipeline, whole, tmp_path):
    """As the message says, the one before serves where that is deleted."""
    with pytest.raises(Interrupted):
        _invert(pipeline, tmp_path / "fox", **_stop_at(10))
    _, newest = sorted((tmp_path / "fox/checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    (file,) = newest.rglob("state.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=rf"the checkpoint of step {newest.name} .* delete that step's folder"):
        _invert(pipeline, tmp_path / "fox", resume=True)
    shutil.rmtree(newest)
    resumed = _invert(pipeline, tmp_path / "fox", resume=True)
    assert _bits(resumed.concept) == _bits(whole[0].concept)


def test_a_warning_is_logged_once_and_kept(pipeline, tmp_path, caplog):
    result = _invert(pipeline, tmp_path / "fox", config=replace(CONFIG, optimizer=OptimizerConfig(learning_rate=1.0)))
    (warning,) = [text for text in result.warnings if "norm" in text]
    assert caplog.text.count(warning) == 1
    assert json.loads((tmp_path / "fox/result.json").read_text())["warnings"] == result.warnings


def test_the_identity_sees_every_picture_and_their_order(pipeline, tmp_path):
    files = []
    for i in range(3):
        files.append(tmp_path / str(i) / "same.png")
        files[i].parent.mkdir()
        Image.fromarray(np.full((32, 32, 3), 50 * i, np.uint8)).save(files[i])

    def identity(*order, flip=True):
        spec = ConceptSpec("fox", "<fox>", "cat", [files[i] for i in order])
        config = replace(CONFIG, data=DataConfig(flip=flip))
        prepared = prepare(pipeline, spec, with_model_defaults(config, pipeline.inversion_defaults))
        assert prepared.inputs.latent_mean.shape[:2] == (len(order), 2 if flip else 1)
        return prepared.identity

    assert identity(0, 1) == identity(0, 1)
    assert identity(0, 1) != identity(0, 1, flip=False)
    assert all(identity(0, 1) != identity(*other) for other in [(1, 0), (0, 2), (2, 1)])


def test_overwrite_starts_anew(pipeline, tmp_path):
    _invert(pipeline, tmp_path / "fox", config=replace(CONFIG, steps=4, save_every=2))
    _invert(pipeline, tmp_path / "fox", config=replace(CONFIG, steps=3, save_every=0), overwrite=True)
    assert not (tmp_path / "fox/learned_embeds-steps-2.safetensors").exists()
    assert json.loads((tmp_path / "fox/result.json").read_text())["steps"] == 3


def test_bad_input_does_not_cost_the_old_run(pipeline, whole):
    with pytest.raises(UserError):
        ti_jax.invert(
            pipeline,
            "no/such/folder",
            placeholder="<fox>",
            initializer="cat",
            output=whole[1],
            overwrite=True,
        )
    assert (whole[1] / "result.json").exists()


def test_a_loss_that_is_not_finite_stops_the_run(pipeline, tmp_path):
    """An enormous rate overflows float32 in the second step at the latest."""
    config = replace(CONFIG, optimizer=OptimizerConfig(learning_rate=1e38), checkpoint_every=1)
    with pytest.raises(UserError, match=r"not finite at step \d+: .*; the checkpoint of step \d+ is kept"):
        _invert(pipeline, tmp_path / "fox", config=config)
    kept = [path for path in (tmp_path / "fox/checkpoints").iterdir() if path.name.isdigit()]
    assert kept


SCRIPT = """
import sys, ti_jax
from ti_jax.config import InversionConfig
config = InversionConfig(steps=60, batch_size=2, evaluate_every=2, fixed_set_size=2, checkpoint_every=4,
                         preview_prompts=("a photo of {}",), preview_steps=1)
ti_jax.invert(ti_jax.load("tiny"), "bundled:fox", placeholder="<fox>", initializer="cat", config=config,
              output=sys.argv[1], resume=True, on_progress=lambda p: print(p.step, flush=True))
"""


def _kill_and_resume(folder, cache, delays):
    """A run that is killed some seconds after its first chunk, again and again, and then left to end."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    for delay in delays:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return (folder / "learned_embeds.safetensors").read_bytes()


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    cache = tmp_path / "compiled"
    whole = _kill_and_resume(tmp_path / "whole", cache, [])
    for trial in range(2):
        delays = np.random.default_rng(trial).uniform(0, 3, 3)
        assert _kill_and_resume(tmp_path / f"{trial}", cache, delays) == whole
