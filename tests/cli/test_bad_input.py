"""Bad input to the `ti-jax` command: one line on stderr, nothing on stdout, exit status 1."""

import errno
import logging
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import ti_jax
import ti_jax.files
from ti_jax import cli
from ti_jax.cli.common import Common
from ti_jax.weights.hub import resolve

# With four pictures these have the shapes of the contact sheet's, so that nothing compiles again.
QUICK = ("--steps", 1, "--batch-size", 4)


def _bits(folder):
    return ti_jax.Concept.load(folder / "learned_embeds.safetensors").vectors["text_encoder"].tobytes()


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


def test_an_output_folder_in_use_is_found_before_a_model_is_loaded(run, invert, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(Common, "load_pipeline", lambda self: pytest.fail("a model is loaded"))
    _assert_fails(invert("--output", finished), "holds a run already")
    _assert_fails(run("invert-many", finished.parent, "--output", finished), "holds a run already")
    (tmp_path / "runs/cats/red").mkdir(parents=True)
    _assert_fails(run("invert-many", "runs/cats"), "runs/cats holds files that are not of a run", "--output")


def test_no_pictures_named(run):
    _assert_fails(run("invert", "--token", "<a>", "--init", "cat"), "name the pictures")
    _assert_fails(run("evaluate", "runs/a"), "name the pictures of the concept")


def test_the_new_word_is_nothing_to_begin_with(run):
    done = run("invert", "bundled:fox", "--token", "<a>", "--init", "<A>", *QUICK)
    _assert_fails(done, "<A> is the new word itself: begin with a word that the model knows")


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


def test_generate_looks_at_its_output_first(run, tmp_path, monkeypatch):
    (tmp_path / "note.txt").touch()
    for output in ("note.txt", "note.txt/pictures"):
        _assert_fails(run("generate", "a", "--model", "gone/", "--output", output), "note.txt is a file")
    monkeypatch.setattr(os, "access", lambda *_: False)  # who runs the tests may write everywhere
    _assert_fails(run("generate", "a", "--model", "gone/"), "cannot be written in")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one prompt"),
        (["a", "--token", "<b>"], "--token renames one concept"),
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
        (("steps=4", "steps=-4"), "c.py: steps must be 1 or more"),
        (("steps=4", "stepz=4"), "c.py fails with TypeError"),
    ],
)
def test_a_bad_config_file(run, config, tmp_path, content, message):
    """Files of a content, or good ones in which something is replaced."""
    if isinstance(content, tuple):
        content = config.read_text().replace(*content)
    if content is not None:
        (tmp_path / "c.py").write_text(content)
    _assert_fails(run("invert", "a", "--token", "<a>", "--init", "b", "--config", "c.py"), message)


def test_config_twice(run, config):
    _assert_fails(run("generate", "a", f"--config={config}", "--config", config), "--config is there twice")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["words.yaml", "--token", "<my-{name}>"], "leave out --token and --init"),
        (["words.yaml", "--init", "cat"], "leave out --token and --init"),
        (["folder", "--per-class", "2"], "name it by --tfds"),
        (["folder", "--distributed", "--hosts", "2"], "leave out --host and --hosts"),
    ],
)
def test_options_of_another_source_are_refused(run, arguments, message):
    _assert_fails(run("invert-many", *arguments), message)


def test_config_without_a_file(run):
    _assert_fails(run("invert", "a", "--config"), "--config wants a file")


def test_a_full_disk(run, invert, finished, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(ti_jax.files, "write_bytes", full)
    monkeypatch.setattr("ti_jax.output.write_bytes", full)
    _assert_fails(invert(), "the disk is full", "--resume")
    _assert_fails(run("generate", "a <fox>", "--concept", finished, *QUICK, "--num-images", 4), "the disk is full")


@pytest.mark.parametrize(
    ("verb", "advice"),
    [
        ("invert", "--batch-size 1 --gradient-accumulation 4"),
        ("invert-many", "fewer --slots"),
        ("generate", "a smaller --height and --width"),
        ("inspect", "another device"),
    ],
)
def test_a_full_device(run, monkeypatch, verb, advice):
    def full(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2147483648 bytes.")

    monkeypatch.setattr(cli.VERBS[verb], "run", full)
    options = {"invert": ["--token", "<a>", "--init", "cat"]}.get(verb, [])
    _assert_fails(run(verb, "a", *options), "the device's memory does not suffice", advice, "2147483648")


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
