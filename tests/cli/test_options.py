"""Options of `ti-jax invert` and `generate`, and what goes to stdout, stderr and files."""

import functools
import json
import typing

import numpy as np
import pytest
from PIL import Image

import ti_jax
from ti_jax import cli
from ti_jax.cli.common import SamplerName
from ti_jax.concepts.formats.write import FORMATS
from ti_jax.diffusion.config import SAMPLERS

# With four pictures these have the shapes of the contact sheet's, so that nothing compiles again.
QUICK = ("--steps", 1, "--batch-size", 4)


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
        (["generate", "a", "--sampler", "magic"], "'dpm++'"),
        (["convert", "a", "b.pt", "--to", "comfy"], "'comfyui'"),
        (["invert", "a", "--token", "<a>", "--init", "b", "--learning-rate", "0"], "give a number above 0"),
    ],
)
def test_wrong_usage(run, arguments, message):
    status, out, error = run(*arguments)
    assert status == 2
    assert out == ""
    assert message in " ".join(error.replace("│", "").split())
    assert "Traceback" not in error


def test_choices_are_those_of_the_library():
    """The command names them itself, since the library's lists take a second to import."""
    to = typing.get_type_hints(cli.Convert)["to"]
    assert typing.get_args(typing.get_args(to)[0]) == FORMATS
    assert typing.get_args(SamplerName) == SAMPLERS


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
    (tmp_path / "g.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import asdict, dataclass\n"
        "@dataclass\nclass Options:\n    steps: int = 9\n\ndef get_config():\n    return asdict(Options())"
    )
    assert run("generate", "a fox", "--config", "g.py")[0] == 0
    assert parsed[-1].steps == 9
    (tmp_path / "g.py").write_text("def get_config():\n    return {'stepz': 7}")
    status, _, error = run("generate", "a fox", "--config", "g.py")
    assert status == 2
    assert "--steps" in error


def test_invert_says_how_to_use_the_word(run, invert, finished):
    status, out, error = invert("--output", finished, "--resume")
    assert status == 0, error
    lines = out.splitlines()
    for part in ("load_textual_inversion(", "StableDiffusionPipeline.from_pretrained(", "A1111", "ComfyUI"):
        assert sum(part in line for line in lines) == 1


def test_of_the_papers_model_no_other_program_is_named(invert, finished, monkeypatch):
    monkeypatch.setattr("ti_jax.cli.invert.is_stable_diffusion", lambda pipeline: False)
    status, out, error = invert("--output", finished, "--resume")
    assert status == 0, error
    assert out.splitlines()[-1].startswith("use it: ti-jax generate ")


def test_json_is_all_that_is_on_stdout(invert, finished):
    status, out, error = invert("--output", finished, "--resume", "--json")
    assert status == 0
    summary = json.loads(out)
    assert out.count("\n") == 1
    assert summary["status"] == "finished"
    written = json.loads((finished / "result.json").read_text())
    assert (written["name"], written["token"], written["steps"]) == ("fox", "<fox>", 4)
    losses = [json.loads(line).get("loss") for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert written["loss"] == pytest.approx(np.mean(losses[1:]))
    for line in (summary, written):
        del line["seconds"], line["warnings"]  # of the session, which did nothing this time
    assert summary == {**written, "file": f"{finished}/learned_embeds.safetensors"}
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
