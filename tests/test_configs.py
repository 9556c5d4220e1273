"""The documents in configs/ are read by the command line, and mean what they meant.

After a wanted change: `TI_JAX_WRITE_GOLDEN=1 pytest tests/test_configs.py`, and look at the difference.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ti_jax.config import (
    ConceptSpec,
    InversionConfig,
    InversionDefaults,
    OptimizerConfig,
    for_concept,
    with_model_defaults,
)

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

# In a process of its own: tyro's marks for options that are still to come are none of the types that the tests check.
CODE = """
import json, sys
from ti_jax.cli import _parse
from ti_jax.config import as_dict
print(json.dumps(as_dict(_parse(sys.argv[1], sys.argv[2:]).settings), indent=2))
"""


def settings_of(verb, *options):
    call = [sys.executable, "-c", CODE, verb, *options]
    return subprocess.run(call, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def resolved(path, *options):
    return settings_of("invert", "bundled:fox", "--token", "<fox>", "--init", "fox", "--config", str(path), *options)


def documented(path):
    """The words after `ti-jax`, or after a launcher's `--`, of the commands at the top of a document."""
    commands = path.read_text().split("Command:")[1].split("Hardware:")[0].replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:ti-jax|--) +(invert(?:-many)? .*)", line) for line in commands]
    return [shlex.split(command[1].replace("--host I", "--host 0")) for command in found if command]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolved_text(path):
    golden = Path(__file__).parent / "golden" / f"{path.stem}.json"
    text = resolved(path)
    if os.environ.get("TI_JAX_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_documented_commands(path):
    """They are commands of today, and read this very document, whichever verb it is for."""
    commands = documented(path)
    assert commands
    for command in commands:
        assert settings_of(*command) == (Path(__file__).parent / "golden" / f"{path.stem}.json").read_text()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_options_override(path):
    found = json.loads(resolved(path, "--steps", "7", "--optimizer.learning-rate", "0.25"))
    wanted = json.loads(resolved(path))
    wanted["steps"] = 7
    wanted["optimizer"]["learning_rate"] = 0.25
    assert found == wanted


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_says_what_it_needs(path):
    text = path.read_text()
    for heading in ("Command:", "Hardware:", "Time:", "Result:"):
        assert heading in text.split('"""')[1]


@pytest.mark.parametrize("scale", [False, True])
def test_a_concept_of_many_has_the_rate_that_it_has_alone(scale):
    """Its own in the place of the one for all, or that of all; either is for one example if it is to be scaled."""
    defaults = InversionDefaults()

    def config(rate):
        optimizer = OptimizerConfig(learning_rate=rate, scale_learning_rate=scale)
        return with_model_defaults(
            InversionConfig(batch_size=4, gradient_accumulation=2, optimizer=optimizer), defaults
        )

    for of_all, own in ((0.5, 0.25), (0.5, None), (None, 0.25), (None, None)):
        among_many = for_concept(config(of_all), ConceptSpec("fox", "<fox>", "fox", [], learning_rate=own))
        alone = config(of_all if own is None else own)
        assert among_many.optimizer == alone.optimizer
        assert alone.optimizer.learning_rate == (own or of_all or defaults.learning_rate) * (8 if scale else 1)


CHOICES = """
from ti_jax.config import *
from ti_jax.errors import UserError
for make in (
    lambda: DataConfig(prompts="styles"),
    lambda: DataConfig(crop="centre"),
    lambda: OptimizerConfig(schedule="linaer"),
    lambda: StoppingConfig(rule="dvr"),
    lambda: InversionConfig(norm_control=None),
    lambda: ConceptSpec("a", "<a>", "b", "c", prompts="loud"),
    lambda: ConceptSpec("狐" * 70, "<a>", "b", "c"),
    lambda: InversionConfig(steps=3e3),
    lambda: InversionConfig(checkpoint_every=True),
    lambda: InversionConfig(num_vectors="2"),
    lambda: InversionConfig(preview_prompts="a {}"),
    lambda: InversionConfig(optimizer={"learning_rate": 1e-3}),
    lambda: OptimizerConfig(learning_rate="5e-3"),
    lambda: BoundsConfig(pictures=5.0),
):
    try:
        print(make())
    except UserError as error:
        print(error)
ConceptSpec("a", "<a>", "b", "c", prompts=None)
InversionConfig(steps=3, optimizer=OptimizerConfig(learning_rate=1), preview_prompts=["a {}"], min_snr_gamma=5)
"""
NUMPY = """
import json, numpy
from ti_jax.config import InversionConfig, as_dict
print(json.dumps(as_dict(InversionConfig(seed=numpy.int64(3)))["seed"]))
"""


def test_values_are_checked_outside_of_the_command_too():
    """In another process, since here the types of arguments are checked first."""
    done = subprocess.run([sys.executable, "-c", CHOICES], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "prompts is 'styles': choose one of model, object, style, captions",
        "crop is 'centre': choose one of center, squash",
        "schedule is 'linaer': choose one of constant, linear, cosine",
        "rule is 'dvr': choose one of none, dvar",
        "norm-control is None: choose one of none, median",
        "prompts is 'loud': choose one of model, object, style, captions",
        f"the name {'狐' * 20}... is too long for a file: give one of 200 bytes or less",
        "steps is 3000.0: give a whole number",
        "checkpoint-every is True: give a whole number",
        "num-vectors is '2': give a whole number",
        "preview-prompts is 'a {}': give a tuple of texts",
        "optimizer is {'learning_rate': 0.001}: give OptimizerConfig",
        "learning-rate is '5e-3': give a number",
        "pictures is 5.0: give a whole number",
    ]


def test_numbers_may_be_of_numpy():
    done = subprocess.run([sys.executable, "-c", NUMPY], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
