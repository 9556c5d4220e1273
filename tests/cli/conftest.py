"""What the tests of the command share: a model that is loaded once, a quick configuration, and a finished run."""

import functools

import pytest

from ti_jax import cli
from ti_jax.cli.common import Common

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


_load_once = functools.cache(Common.load_pipeline)


@pytest.fixture(autouse=True)
def one_load(monkeypatch):
    """A model is loaded once for all commands."""
    monkeypatch.setattr(Common, "load_pipeline", _load_once)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def finished(config, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "fox"
    arguments = ["bundled:fox", "--token", "<fox>", "--init", "cat", "--config", config, "--output", folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Common, "load_pipeline", _load_once)
        cli.main(["invert", *map(str, arguments)])
    return folder
