"""The commands and the code that `ti-jax invert` prints say which model the word was learned with."""

import functools
import shlex
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest

from ti_jax import Concept, cli
from ti_jax.cli.common import Common
from ti_jax.cli.usage import diffusers_loading, is_stable_diffusion
from ti_jax.models.bert import LDMBertModel
from ti_jax.models.clip import CLIPTextModel
from ti_jax.models.presets import preset
from ti_jax.weights.loader import abstract_network

FOX = Concept("<fox>", {"text_encoder": np.ones((1, 8), np.float32)})
XL = Concept("<fox>", {"text_encoder": np.ones((1, 8), np.float32), "text_encoder_2": np.ones((1, 12), np.float32)})


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--model", "owner/name", "--revision", "v 1", "--variant", "fp16", "--dtype", "float32"],
        ["--model", "a.ckpt", "--prediction-type", "v_prediction", "--model-config", "b", "--tokenizer", "c"],
    ],
)
def test_the_options_of_a_model_name_it_again(run, monkeypatch, options):
    parsed = []
    monkeypatch.setattr(cli.Generate, "run", lambda self: parsed.append(self.common))
    assert run("generate", "a fox", *options)[0] == 0
    assert run("generate", "a fox", *shlex.split(shlex.join(parsed[0].model_options())))[0] == 0
    assert parsed[0] == parsed[1]


class Pipe:
    """A class of diffusers that notes how a pipeline is made."""

    def __init__(self):
        self.calls = []
        self.scheduler = SimpleNamespace(config="config", from_config=self._note("from_config"))
        self.from_pretrained, self.from_single_file = self._note("from_pretrained"), self._note("from_single_file")

    def _note(self, name):
        def note(*arguments, **options):
            self.calls.append((name, *arguments, options))
            return self

        return note


@pytest.mark.parametrize(
    ("concept", "options", "calls"),
    [
        (FOX, {"model": "owner/name"}, [("from_pretrained", "owner/name", {})]),
        (XL, {"model": "owner/name"}, [("from_pretrained", "owner/name", {})]),
        (
            FOX,
            {"model": "owner/name", "revision": "main", "variant": "fp16", "dtype": "float32"},
            [("from_pretrained", "owner/name", {"revision": "main", "variant": "fp16"})],
        ),
        (FOX, {"model": "sd.safetensors"}, [("from_single_file", "sd.safetensors", {})]),
        (
            FOX,
            {"model": "sd.safetensors", "model_config": "owner/name", "prediction_type": "v_prediction"},
            [
                ("from_single_file", "sd.safetensors", {"config": "owner/name"}),
                ("from_config", "config", {"prediction_type": "v_prediction"}),
            ],
        ),
    ],
)
def test_how_diffusers_loads_the_model(concept, options, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd.safetensors").write_bytes(b"")
    kind = "StableDiffusionPipeline" if concept is FOX else "StableDiffusionXLPipeline"
    pipe = Pipe()
    for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        monkeypatch.setattr(diffusers, name, pipe if name == kind else None)
    exec("\n".join(diffusers_loading(Common(**options), concept)), {})
    assert pipe.calls == calls


def test_what_only_ti_jax_draws():
    """Other programs know no words of the paper's model."""
    encoders = (CLIPTextModel, preset("sd-1.5").text_encoder), (LDMBertModel, preset("ldm").text_encoder)
    stable, paper = (abstract_network(functools.partial(kind, config)) for kind, config in encoders)
    assert is_stable_diffusion(SimpleNamespace(networks={"text_encoder": stable}))
    assert not is_stable_diffusion(SimpleNamespace(networks={"text_encoder": paper}))
