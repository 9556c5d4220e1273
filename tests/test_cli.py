"""The `ti-jax` command: options, exit statuses, what goes to stdout and stderr, and every kind of bad input."""

import contextlib
import errno
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import ti_jax
import ti_jax.files
from ti_jax import cli, terminal
from ti_jax.cli.common import Common
from ti_jax.weights.hub import resolve

CONFIG = """
from ti_jax.config import DataConfig, InversionConfig, OptimizerConfig

def get_config():
    return InversionConfig(
        steps=4,
        batch_size=1,
        evaluate_every=2,
        checkpoint_every=2,
        fixed_set_size=2,
        preview_steps=1,
        preview_prompts=("a {}",),
        data=DataConfig(resolution=32),
        optimizer=OptimizerConfig(learning_rate=0.25),
    )
"""

# With four pictures these have the shapes of the contact sheet's, so that nothing compiles again.
QUICK = ("--steps", 1, "--batch-size", 4)


@pytest.fixture(autouse=True, scope="module")
def one_load():
    """A model is loaded once for all commands."""
    load = Common.load_pipeline
    Common.load_pipeline = functools.cache(load)
    yield
    Common.load_pipeline = load


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A file of few and small steps."""
    file = tmp_path_factory.mktemp("config") / "quick.py"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def invert(run, config):
    """`ti-jax invert bundled:fox --token <fox> --init cat`, with other options after."""

    def invert(*options, pictures="bundled:fox", token="<fox>", init="cat"):
        return run("invert", pictures, "--token", token, "--init", init, "--config", config, *options)

    return invert


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "fox"
    arguments = ["bundled:fox", "--token", "<fox>", "--init", "cat", "--config", config, "--output", folder]
    cli.main(["invert", *map(str, arguments)])
    return folder


def _bits(folder):
    return ti_jax.Concept.load(folder / "learned_embeds.safetensors").vectors["text_encoder"].tobytes()


# Options


def test_help(run):
    status, out, _ = run("--help")
    assert status == 0
    assert "invert" in out
    assert "generate" in out
    for verb in cli.VERBS:
        status, out, _ = run(verb, "--help")
        assert status == 0
        for option in ("--model", "--output", "--seed", "--json", "--config"):
            assert option in out


def test_version(run):
    assert run("--version") == (0, f"{ti_jax.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a verb"),
        (["invrt"], "did you mean invert?"),
        (["fly"], "there is no verb 'fly'"),
        (["invert", "a", "--token", "<a>", "--init", "b", "--stepz", "3"], "--steps"),
        (
            ["invert", "a", "--token", "<a>", "--init", "b", "--optimizer.learning-rat", "3"],
            "--optimizer.learning-rate",
        ),
        (["invert", "a", "--token", "<a>", "--init", "b", "--steps", "many"], "--steps"),
        (["invert", "a", "--token", "<a>", "--init", "b", "--data.crop", "circle"], "squash"),
        (["invert", "a", "--init", "b"], "--token"),
        (["generate", "a", "--sampelr", "euler"], "--sampler"),
        (["generate", "a", "--seed", "one"], "--seed"),
        (["invert", "a", "--token", "<a>", "--init", "b", "--learning-rate", "0"], "give a number above 0"),
    ],
)
def test_wrong_usage(run, arguments, message):
    status, out, error = run(*arguments)
    assert status == 2
    assert out == ""
    assert message in " ".join(error.replace("│", "").split())
    assert "Traceback" not in error


def test_options_override_the_config_file(run, config, monkeypatch):
    parsed = []
    monkeypatch.setattr(cli.Invert, "run", lambda self: parsed.append(self))
    options = ["--token", "<a>", "--init", "b", "--batch-size", 3, "--optimizer.beta1", 0.5, "--seed", 7]
    for place in ([f"--config={config}", *options], [*options, "--config", config]):
        assert run("invert", "a", "b", *place)[0] == 0
        settings = parsed.pop().settings
        assert (settings.steps, settings.batch_size, settings.seed) == (4, 3, 7)
        assert (settings.optimizer.learning_rate, settings.optimizer.beta1) == (0.25, 0.5)


def test_generate_takes_a_config_file_of_options(run, tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(cli.Generate, "run", lambda self: parsed.append(self))
    content = {"steps": 7, "num_images": 2, "concept": ["a.pt", "b.pt"], "json": True, "width": None}
    (tmp_path / "g.py").write_text(f"def get_config():\n    return {content}")
    assert run("generate", "a fox", "--config", "g.py", "--num-images", 3, "--concept", "c.pt")[0] == 0
    (got,) = parsed
    assert (got.prompts, got.steps, got.num_images, got.common.json, got.width) == (("a fox",), 7, 3, True, None)
    assert got.concept == ("a.pt", "b.pt", "c.pt")
    (tmp_path / "g.py").write_text("def get_config():\n    return {'stepz': 7}")
    status, _, error = run("generate", "a fox", "--config", "g.py")
    assert status == 2
    assert "--steps" in error


# What is said and written


def test_invert_says_how_to_use_the_word(run, invert, finished):
    status, out, error = invert("--output", finished, "--resume")
    assert status == 0, error
    lines = out.splitlines()
    for part in ("load_textual_inversion(", "StableDiffusionPipeline.from_pretrained(", "A1111", "ComfyUI"):
        assert sum(part in line for line in lines) == 1


def test_json_is_all_that_is_on_stdout(invert, finished):
    status, out, error = invert("--output", finished, "--resume", "--json")
    assert status == 0
    summary = json.loads(out)
    assert out.count("\n") == 1
    assert summary["status"] == "finished"
    assert (summary["name"], summary["token"], summary["steps"]) == ("fox", "<fox>", 4)
    assert summary["file"] == f"{finished}/learned_embeds.safetensors"
    assert summary["loss"] > 0
    assert "{" not in error


def test_the_default_folder_is_named_after_the_token(invert, tmp_path):
    status, _, error = invert("--steps", 2, token="<my-fox>")
    assert status == 0, error
    assert "step 2/2" in error
    assert (tmp_path / "runs/my-fox/learned_embeds.safetensors").exists()
    assert (tmp_path / "runs/my-fox/my-fox.safetensors").exists()


def _texts(file):
    with Image.open(file) as image:
        return dict(image.text)


def test_generate_writes_numbered_pictures_that_say_how_they_were_made(run, finished, tmp_path):
    draw = functools.partial(run, "generate", *QUICK, "--concept", finished, "--output", "out")
    options = ["--num-images", 2, "--seed", 5, "--negative-prompt", "blurry ☃"]
    status, out, error = draw("a <fox>, cosy", "a cat", *options)
    assert status == 0, error
    assert out.splitlines() == [f"out/000{i}.png" for i in range(4)]
    status, out, _ = draw("a <fox>", "--num-images", 4, "--json")
    assert status == 0
    assert json.loads(out) == {"files": [f"out/000{i}.png" for i in range(4, 8)]}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"000{i}.png" for i in range(8)]

    texts = _texts(tmp_path / "out/0000.png")
    settings = json.loads(texts["ti_jax"])
    assert settings["prompt"] == "a <fox>, cosy"
    assert (settings["seed"], settings["steps"], settings["index"]) == (5, 1, 0)
    assert settings["model"] == "tiny"
    assert settings["concept"] == [str(finished)]
    assert texts["parameters"] == (
        "a <fox>, cosy\nNegative prompt: blurry ☃\n"
        "Steps: 1, Sampler: ddim, CFG scale: 5.0, Seed: 5, Size: 64x64, Model: tiny"
    )
    assert json.loads(_texts(tmp_path / "out/0002.png")["ti_jax"])["prompt"] == "a cat"
    with Image.open(tmp_path / "out/0000.png") as image:
        assert (image.mode, image.size) == ("RGB", (64, 64))


def test_a_concept_under_another_word(run, finished, tmp_path):
    """The same pictures from the file under its own word and under another."""
    file = finished / "fox.safetensors"
    for options in (["a <fox>", "--concept", file], ["a <vixen>", "--concept", file, "--token", "<vixen>"]):
        status, _, error = run("generate", *QUICK, "--num-images", 4, "--output", "out", *options)
        assert status == 0, error
    first, second = (np.asarray(Image.open(tmp_path / f"out/000{i}.png")) for i in (0, 4))
    np.testing.assert_array_equal(first, second)


# Bad input: one line on stderr, nothing on stdout, exit status 1


def _assert_fails(result, *parts):
    status, out, error = result
    assert status == 1, error
    assert out == ""
    lines = [line for line in error.splitlines() if line.startswith("ti-jax: ")]
    assert len(lines) == 1, error
    assert lines[0] == error.splitlines()[-1]
    assert "Traceback" not in error
    for part in parts:
        assert part in lines[0]


@pytest.fixture
def folder(tmp_path):
    """A folder of one good picture."""
    path = tmp_path / "pictures"
    path.mkdir()
    Image.new("RGB", (40, 40), "red").save(path / "good.png")
    return path


def test_a_missing_folder(invert, tmp_path):
    _assert_fails(invert(pictures="gone"), "there is no folder or picture gone")
    assert not (tmp_path / "runs").exists()


def test_a_folder_without_pictures(invert, tmp_path):
    (tmp_path / "empty").mkdir()
    _assert_fails(invert(pictures="empty"), "there is no picture in empty")


def test_no_pictures_named(run):
    _assert_fails(run("invert", "--token", "<a>", "--init", "cat"), "name the pictures")


def test_a_corrupt_picture_is_named_and_skipped_only_where_asked(invert, tmp_path, caplog):
    shutil.copytree(resolve("tiny").parent / "concepts/fox", tmp_path / "pictures")
    (tmp_path / "pictures/bad.png").write_bytes(b"this is no picture")
    _assert_fails(invert(pictures="pictures"), "bad.png cannot be read", "--skip-bad")
    status, _, error = invert("--skip-bad", "--steps", 2, pictures="pictures")
    assert status == 0, error
    assert "bad.png" in caplog.text


def test_a_template_without_the_word(invert, tmp_path):
    (tmp_path / "t.txt").write_text("a {}\na photo\n")
    _assert_fails(invert("--templates", "t.txt"), "line 2 of t.txt", "<fox>")


def test_a_word_that_the_limit_cuts_off(invert, tmp_path):
    (tmp_path / "t.txt").write_text("a {}\n" + "red " * 31 + "{}\n")
    _assert_fails(invert("--templates", "t.txt"), "<fox> is cut off in", "takes 32")
    _assert_fails(invert("--num-vectors", 31), "<fox> is cut off in", "fewer vectors")


def test_too_long_a_template(invert, tmp_path):
    (tmp_path / "t.txt").write_text("{}" + " red" * 31)
    _assert_fails(invert("--templates", "t.txt"), "has 34 tokens and the model takes 32")


def test_a_missing_caption(invert, folder):
    _assert_fails(invert("--prompts", "captions", pictures=folder), "good.png has no caption", "good.txt")
    (folder / "good.txt").write_text("a cat")
    _assert_fails(invert("--prompts", "captions", pictures=folder), "good.txt does not hold <fox>")


def test_a_word_of_the_vocabulary(invert):
    _assert_fails(invert(token="fox"), "'fox' is a word of the vocabulary", "<fox>")


@pytest.mark.parametrize("token", ["", "my fox"])
def test_a_placeholder_of_none_or_two_words(invert, token):
    _assert_fails(invert(token=token), "must be one word")


@pytest.mark.parametrize("init", ["", "<|endoftext|>"])
def test_an_initialiser_that_cannot_be_spelt(invert, init):
    _assert_fails(invert(init=init), "the initialiser")


def test_an_initialiser_with_too_many_tokens(invert):
    _assert_fails(invert("--num-vectors", 1, init="red fox"), "2 tokens", "red", "--num-vectors 2")


@pytest.fixture
def wide(tmp_path):
    """A concept of another model."""
    file = tmp_path / "wide.safetensors"
    ti_jax.Concept("<wide>", {"text_encoder": np.ones((1, 768), np.float32)}).save(file)
    return file


def test_vectors_of_another_width(run, invert, wide):
    _assert_fails(invert(init=wide), "width 768", "128")
    _assert_fails(run("generate", "a <wide>", "--concept", wide), "<wide> has vectors of another model", "768", "128")


def test_a_missing_or_broken_concept(run, tmp_path):
    _assert_fails(run("generate", "a", "--concept", "gone.pt"), "there is no embedding file gone.pt")
    _assert_fails(run("generate", "a", "--concept", tmp_path), "learned_embeds.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    _assert_fails(run("generate", "a", "--concept", "bad.safetensors"), "cannot be read as safetensors")


def test_a_run_folder_in_use(invert, finished):
    before = _bits(finished)
    _assert_fails(invert("--output", finished), "holds a run already", "--resume", "--overwrite")
    _assert_fails(invert("--output", finished, "--resume", "--seed", 3), "seed: 0 -> 3")
    _assert_fails(invert("--output", finished, "--resume", "--overwrite"), "choose one")
    assert _bits(finished) == before


def test_output_that_is_a_file(run, invert, tmp_path):
    (tmp_path / "taken").write_text("")
    _assert_fails(invert("--output", "taken"), "taken is a file")
    _assert_fails(run("generate", "a", "--output", "taken"), "taken is a file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", 0], "steps must be 1 or more"),
        (["--seed", -1], "seed must be in"),
        (["--name", "../fox"], "the name '../fox'"),
    ],
)
def test_values_out_of_range(invert, options, message):
    _assert_fails(invert(*options), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one prompt"),
        (["a", "--token", "<b>"], "--token renames one concept"),
        (["a", "--sampler", "magic"], "magic"),
        (["a", "--steps", 0], "steps"),
        (["a", "--seed", -1], "seed"),
        (["a", "--num-images", 0], "num_images"),
        (["a", "--batch-size", 0], "batch_size"),
        (["a", "--height", 63], "not a multiple of"),
        (["a", "--model", "gone/"], "there is no folder gone"),
    ],
)
def test_generate_refuses(run, tmp_path, arguments, message):
    _assert_fails(run("generate", *arguments), message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no configuration file c.py"),
        ("steps = 3", "c.py defines no get_config() that returns an InversionConfig"),
        ("def get_config(): return {}", "get_config() of c.py returns a dict"),
        ("def get_config(: pass", "c.py fails with SyntaxError"),
        ("import no_such_module", "c.py fails with ModuleNotFoundError"),
        ("def get_config(): return 1 / 0", "c.py fails with ZeroDivisionError"),
        (CONFIG.replace("steps=4", "steps=-4"), "c.py: steps must be 1 or more"),
        (CONFIG.replace("steps=4", "stepz=4"), "c.py fails with TypeError"),
    ],
)
def test_a_bad_config_file(run, tmp_path, content, message):
    if content is not None:
        (tmp_path / "c.py").write_text(content)
    _assert_fails(run("invert", "a", "--token", "<a>", "--init", "b", "--config", "c.py"), message)


def test_config_without_a_file(run):
    _assert_fails(run("invert", "a", "--config"), "--config wants a file")


def test_a_full_disk(run, invert, finished, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(ti_jax.files, "write_bytes", full)
    monkeypatch.setattr("ti_jax.output.write_bytes", full)
    _assert_fails(invert(), "the disk is full", "--resume")
    _assert_fails(run("generate", "a <fox>", "--concept", finished, *QUICK, "--num-images", 4), "the disk is full")


@pytest.mark.parametrize("debug", [False, True])
def test_the_tracebacks_that_orbax_logs_are_for_debugging(run, capsys, monkeypatch, debug):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(cli.Generate, "run", lambda self: None)
    run("generate", "a", *(["--debug"] if debug else []))
    logging.getLogger("absl").error("a thread has failed")
    logging.getLogger("ti_jax").info("all is well")
    error = capsys.readouterr().err
    assert ("a thread has failed" in error) == debug
    assert "INFO: all is well" in error


def test_a_bug_is_a_line_too_unless_asked_for(run, monkeypatch):
    def bug(self):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(cli.Generate, "run", bug)
    _assert_fails(run("generate", "a"), "failed with RuntimeError: out of memory", "--debug")
    with pytest.raises(RuntimeError):
        run("generate", "a", "--debug")


# Signals


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
