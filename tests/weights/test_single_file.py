"""Checkpoints in the original layout, made by an independent converter and read by diffusers, too."""

import functools
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import NamedTuple

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from original_layout import openai_text, original_layout, under
from safetensors.torch import load_file, save_file
from torch_pair import same_weights
from twins import shake

import ti_jax
from ti_jax.diffusion.config import sampler_options
from ti_jax.diffusion.plan import plan
from ti_jax.errors import UserError
from ti_jax.models.presets import preset
from ti_jax.pipeline import NETWORKS
from ti_jax.weights import single_file
from ti_jax.weights.loader import _plan, abstract_network, parameter_name


@pytest.fixture(params=["sd1_twin", "sd2_twin", "sdxl_twin"])
def checkpoint(request, tmp_path):
    """A file, the PyTorch pipeline that it was made of, and ours."""
    pipe, pipeline = request.getfixturevalue(request.param)
    save_file(original_layout(pipe), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", pipe, pipeline


def test_with_configs_of_a_folder(checkpoint):
    """Sizes that a file does not tell, as diffusers takes them: from a model's configs."""
    file, pipe, pipeline = checkpoint
    ours = ti_jax.load(file, config=pipeline.source, dtype="float32")
    same_weights(ours, pipe)
    assert ours.fingerprint == pipeline.fingerprint
    assert ours.zeros_for_empty_prompt == pipeline.zeros_for_empty_prompt
    theirs = type(pipe).from_single_file(str(file), config=pipeline.source, local_files_only=True)
    same_weights(ours, theirs)


@pytest.mark.parametrize("nested", [True, False])
def test_pickled(checkpoint, nested, tmp_path):
    """As the first checkpoints were: a training state with a class of another library in it."""
    file, pipe, pipeline = checkpoint
    state = load_file(file)
    torch.save({"state_dict": state, "global_step": 3} if nested else state, tmp_path / "model.ckpt")
    same_weights(ti_jax.load(tmp_path / "model.ckpt", config=pipeline.source), pipe)


def test_a_class_of_another_library(checkpoint, tmp_path, monkeypatch):
    import sys
    import types

    class ModelCheckpoint:
        pass

    place = "pytorch_lightning.callbacks.model_checkpoint"
    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = place, "ModelCheckpoint"
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", place]
    with monkeypatch.context() as patch:
        for name in names:
            patch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[place].ModelCheckpoint = ModelCheckpoint
        file, pipe, pipeline = checkpoint
        state = {"state_dict": load_file(file), "callbacks": {ModelCheckpoint: {"monitor": "loss"}}}
        torch.save(state, tmp_path / "model.ckpt")
    same_weights(ti_jax.load(tmp_path / "model.ckpt", config=pipeline.source), pipe)


class Pipe:
    """Random networks of sizes that a file tells."""

    def __init__(self, kind):
        torch.manual_seed(3)
        sd2, sdxl = kind.startswith("sd2"), kind == "sdxl"
        text = transformers.CLIPTextConfig(
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=1,
            num_hidden_layers=2,
            vocab_size=49408,
            projection_dim=64,
            hidden_act="gelu" if sd2 else "quick_gelu",
            eos_token_id=2,
        )
        added = {}
        self.text_encoder = transformers.CLIPTextModel(text).eval()
        if sdxl:
            second = transformers.CLIPTextConfig(**{**text.to_dict(), "projection_dim": 48, "hidden_act": "gelu"})
            self.text_encoder_2 = transformers.CLIPTextModelWithProjection(second).eval()
            added = {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 48 + 6 * 8,
                "transformer_layers_per_block": (1, 2, 1),
            }
        self.unet = diffusers.UNet2DConditionModel(
            sample_size=64,
            in_channels=9 if kind.endswith("inpainting") else 4,
            block_out_channels=(64, 128, 128) if sd2 or sdxl else (32, 64, 64),
            layers_per_block=2 if sd2 else 1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=128 if sdxl else 64,
            attention_head_dim=[1, 2, 2] if sd2 or sdxl else 8,
            use_linear_projection=sd2 or sdxl,
            **added,
        ).eval()
        self.vae = diffusers.AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=2,
            scaling_factor=0.13025 if sdxl else 0.18215,
        ).eval()
        for network in vars(self).values():
            shake(network)


@pytest.mark.parametrize(
    ("kind", "prediction"),
    [("sd1", None), ("sd2", "epsilon"), ("sd2", "v_prediction"), ("sd2 inpainting", None), ("sdxl", None)],
)
def test_told_by_the_file(kind, prediction, tmp_path):
    pipe = Pipe(kind)
    save_file(original_layout(pipe), tmp_path / "model.safetensors")
    pipeline = ti_jax.load(tmp_path / "model.safetensors", prediction_type=prediction, dtype="float32")
    same_weights(pipeline, pipe)
    for name, network in pipeline.networks.items():
        theirs = getattr(pipe, name)
        values = theirs.config if name in ("unet", "vae") else theirs.config.to_dict()
        ours = replace(network.config, sample_size=64) if name == "unet" else network.config
        assert ours == type(ours).from_dict(
            {**values, "architectures": [type(theirs).__name__]} if "text" in name else values
        )
    sample_size = 128 if kind == "sdxl" else 96 if prediction == "v_prediction" else 64
    assert pipeline.networks["unet"].config.sample_size == sample_size
    assert pipeline.schedule.prediction_type == (prediction or "epsilon")
    assert pipeline.max_length == 77
    # Of the published configs, SDXL's alone says it; others leave it to the sampler.
    spacing = "leading" if kind == "sdxl" else diffusers.EulerDiscreteScheduler().config.timestep_spacing
    assert sampler_options(dict(pipeline.schedule.options), "euler")["timestep_spacing"] == spacing
    paddings = [words.pad_token_id for words in pipeline.tokenizers.values()]
    assert paddings == {"sd1": [49407], "sd2": [0], "sdxl": [49407, 0]}[kind.split()[0]]


PROJECTION = ("cond_stage_model.model.text_projection", "cond_stage_model.model.logit_scale")


def without(*prefixes):
    return lambda tensors: {key: t for key, t in tensors.items() if not key.startswith(prefixes)}


def converted_from_diffusers(tensors):
    """As diffusers' `convert_diffusers_to_original_stable_diffusion.py` writes Stable Diffusion 2."""
    layer = "cond_stage_model.model.transformer.resblocks."
    last = max(int(key.removeprefix(layer).split(".")[0]) for key in tensors if key.startswith(layer))
    return without(f"{layer}{last}.", *PROJECTION)(tensors)


def test_converted_from_diffusers(sd2_twin, tmp_path):
    """The last layer is one that is used, and there is no projection."""
    pipe = Pipe("sd2")
    save_file(converted_from_diffusers(original_layout(pipe)), tmp_path / "told.safetensors")
    told = ti_jax.load(tmp_path / "told.safetensors", prediction_type="epsilon", dtype="float32")
    same_weights(told, pipe)

    pipe, pipeline = sd2_twin
    save_file(converted_from_diffusers(original_layout(pipe)), tmp_path / "model.safetensors")
    same_weights(ti_jax.load(tmp_path / "model.safetensors", config=pipeline.source, dtype="float32"), pipe)


def test_a_layer_that_the_config_leaves_out(sd2_twin, tmp_path):
    """Nothing that is used is dropped, whatever the config says."""
    pipe, pipeline = sd2_twin
    tensors = original_layout(pipe)
    layer = "cond_stage_model.model.transformer.resblocks."
    more = {key.replace(f"{layer}1.", f"{layer}2."): t for key, t in tensors.items() if f"{layer}1." in key}
    save_file({**converted_from_diffusers(tensors), **copied(more)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"transformer\.resblocks\.2\.\S+ \[\d+(, \d+)?\] fits no parameter"):
        ti_jax.load(tmp_path / "model.safetensors", config=pipeline.source)


def copied(tensors):
    """safetensors writes no memory twice."""
    return {key: tensor.clone() for key, tensor in tensors.items()}


def with_openai_names(pipe):
    """Stable Diffusion 2 with the text encoder as transformers names it, where Stable Diffusion 1 has its own."""
    text = under("cond_stage_model.transformer.text_model.", openai_text(pipe.text_encoder))
    return {**without("cond_stage_model.")(original_layout(pipe)), **text}


def test_stable_diffusion_2_under_the_names_of_1(sd2_twin, tmp_path):
    save_file(with_openai_names(Pipe("sd2")), tmp_path / "told.safetensors")
    with pytest.raises(UserError, match=r"named as in Stable Diffusion 1.*is of Stable Diffusion 2.*--model-config"):
        ti_jax.load(tmp_path / "told.safetensors", prediction_type="epsilon")
    pipe, pipeline = sd2_twin
    save_file(with_openai_names(pipe), tmp_path / "model.safetensors")
    ours = ti_jax.load(tmp_path / "model.safetensors", config=pipeline.source, dtype="float32")
    same_weights(ours, pipe)
    assert ours.fingerprint == pipeline.fingerprint


OF_CLIP, POSITIONS = "transformer.text_projection.weight", "transformer.text_model.embeddings.position_ids"


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("sd1", f"cond_stage_model.{OF_CLIP}"),
        ("sdxl", f"conditioner.embedders.0.{OF_CLIP}"),
        ("sd2", f"cond_stage_model.model.{POSITIONS}"),
        ("sdxl", f"conditioner.embedders.1.model.{POSITIONS}"),
    ],
)
def test_what_savers_leave(kind, left, tmp_path):
    """CLIP's own projection, which no Stable Diffusion uses of these encoders, and the numbers of its positions."""
    pipe = Pipe(kind)
    tensor = torch.randn(64, 64) if OF_CLIP in left else torch.arange(77)[None]
    save_file({**original_layout(pipe), left: tensor}, tmp_path / "model.safetensors")
    prediction = "epsilon" if kind == "sd2" else None
    ours = ti_jax.load(tmp_path / "model.safetensors", dtype="float32", prediction_type=prediction)
    same_weights(ours, pipe)


# Empty tensors, as ComfyUI and others write them; OneTrainer says zero SNR by the table itself.
V_PREDICTION = {"v_pred": torch.zeros(0)}
ZERO_SNR = {**V_PREDICTION, "ztsnr": torch.zeros(0)}
OF_ONE_TRAINER = {**V_PREDICTION, "alphas_cumprod": torch.linspace(1, 0, 1000)}
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(
    ("markers", "zero"),
    [({}, False), (V_PREDICTION, False), (ZERO_SNR, True), (OF_ONE_TRAINER, True)],
    ids=["none", "v", "zero SNR", "OneTrainer"],
)
def test_markers_of_the_noise(markers, zero, sdxl_twin, tmp_path, caplog):
    """Tensors that say by their names what no shape does; of the config they are worth more, and less than the user."""
    told, file = tmp_path / "told.safetensors", tmp_path / "model.safetensors"
    save_file({**original_layout(Pipe("sdxl")), **markers}, told)
    save_file({**original_layout(sdxl_twin[0]), **markers}, file)
    expected = diffusers.DDIMScheduler(**NOISE, rescale_betas_zero_snr=zero).alphas_cumprod.numpy()
    for pipeline in ti_jax.load(told), ti_jax.load(file, config=sdxl_twin[1].source):
        assert pipeline.schedule.prediction_type == ("v_prediction" if markers else "epsilon")
        np.testing.assert_allclose(pipeline.schedule.alphas_cumprod, expected, rtol=0, atol=1e-6)
        assert plan(pipeline.schedule, "ddim", 10).steps.timestep[0] == (999 if zero else 901)
    assert "of no network here" not in caplog.text
    for options in {}, {"config": sdxl_twin[1].source}:
        pipeline = ti_jax.load(file if options else told, prediction_type="epsilon", **options)
        assert pipeline.schedule.prediction_type == "epsilon"


def test_a_marker_says_what_stable_diffusion_2_predicts(tmp_path):
    save_file({**original_layout(Pipe("sd2")), **V_PREDICTION}, tmp_path / "model.safetensors")
    pipeline = ti_jax.load(tmp_path / "model.safetensors")
    assert pipeline.schedule.prediction_type == "v_prediction"
    assert pipeline.networks["unet"].config.sample_size == 96


class Shape(NamedTuple):
    """A tensor that is only shown."""

    shape: tuple[int, ...]

    def read(self):
        raise AssertionError("only the shape is asked for")


def text_config(config):
    values = asdict(config)
    values.pop("with_projection")
    return transformers.CLIPTextConfig(**values)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sd-1.5", dict),
        ("sd-2.1", dict),
        ("sd-2.1", without(*PROJECTION)),  # as ComfyUI saved it once
        ("sd-2.1", converted_from_diffusers),
        ("sdxl", dict),
    ],
)
def test_published_models(name, change, tmp_path, monkeypatch):
    """At their true sizes the file tells the very preset, and every tensor has its place."""
    found = preset(name)
    with torch.device("meta"):
        pipe = SimpleNamespace(
            text_encoder=transformers.CLIPTextModel(text_config(found.text_encoder)),
            unet=diffusers.UNet2DConditionModel(**asdict(found.unet)),
            vae=diffusers.AutoencoderKL(**asdict(found.vae)),
        )
        if found.text_encoder_2 is not None:
            pipe.text_encoder_2 = transformers.CLIPTextModelWithProjection(text_config(found.text_encoder_2))
    tensors = {key: Shape(tuple(tensor.shape)) for key, tensor in change(original_layout(pipe)).items()}
    monkeypatch.setattr(single_file, "open_weights", lambda path: tensors)
    files = single_file.open_single_file(tmp_path, base=None, prediction_type="v_prediction")
    for part, config in files.configs.items():
        published = getattr(found, part)
        assert config == (
            replace(published, eos_token_id=2, projection_dim=config.projection_dim) if "text" in part else published
        )
        found_tensors, rules = files.weights(part)
        network = abstract_network(functools.partial(NETWORKS[type(config)], config))
        shapes = {parameter_name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(network)[0]}
        assert _plan(shapes, found_tensors, rules)[1] == []


BROKEN = {
    "no unet": (without("model."), "is not a whole model: it has no unet"),
    "no unet, no vae": (without("model.", "first"), "is not a whole model: it has no unet and no vae"),
    "no text encoder": (without("cond"), "not a checkpoint of Stable Diffusion in the original layout"),
    "a LoRA": (lambda tensors: {"lora_unet.alpha": torch.zeros(1)}, r"\(it has 1 tensors, such as lora_unet\.alpha"),
    "nothing": (lambda tensors: {}, r"it has 0 tensors, none"),
    "Playground 2.5": (lambda tensors: {**tensors, "edm_mean": torch.zeros(4)}, r"EDM.*\(edm_mean\).*not supported"),
    "CosXL": (lambda tensors: {**tensors, "edm_vpred.sigma_max": torch.ones(())}, r"EDM.*\(edm_vpred\.sigma_max\)"),
    "the paper's": (
        lambda tensors: {**tensors, "cond_stage_model.transformer.attn_layers.layers.0.0.0.weight": torch.zeros(4)},
        "is the paper's model as one file",
    ),
    "a tensor missing": (
        without("model.diffusion_model.out.2.bias"),
        r"unet \(1 problems\):\n  conv_out\.bias \[4\] is missing",
    ),
    "a tensor too many": (
        lambda tensors: {**tensors, "model.diffusion_model.input_blocks.9.0.op.bias": torch.zeros(3)},
        r"input_blocks\.9\.0\.op\.bias \[3\] fits no parameter",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name, sd1_twin, tmp_path):
    pipe, pipeline = sd1_twin
    change, message = BROKEN[name]
    save_file(change(original_layout(pipe)), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        ti_jax.load(tmp_path / "model.safetensors", config=pipeline.source)


def test_what_is_not_told(sd1_twin, sd2_twin, tmp_path):
    save_file(original_layout(sd1_twin[0]), tmp_path / "sd1.safetensors")
    save_file(original_layout(sd2_twin[0]), tmp_path / "sd2.safetensors")
    with pytest.raises(UserError, match=r"text encoder has 32 channels, not a multiple of 64.*config="):
        ti_jax.load(tmp_path / "sd1.safetensors")
    with pytest.raises(UserError, match=r"does not say what its UNet predicts.*--prediction-type"):
        ti_jax.load(tmp_path / "sd2.safetensors")
    words = {"cond_stage_model.model.token_embedding.weight": torch.zeros(())}
    save_file({**original_layout(sd2_twin[0]), **words}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="has tensors of other shapes than any Stable Diffusion"):
        ti_jax.load(tmp_path / "odd.safetensors", prediction_type="epsilon")
    with pytest.raises(UserError, match="is a folder, which has configs of its own: leave config out"):
        ti_jax.load(sd1_twin[1].source, config=sd1_twin[1].source)


def test_tensors_of_nothing_here(sd1_twin, tmp_path, caplog):
    tensors = {**original_layout(sd1_twin[0]), "control.x": torch.zeros(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    ti_jax.load(tmp_path / "model.safetensors", config=sd1_twin[1].source)
    assert "1 tensors are of no network here, such as control.x" in caplog.text
