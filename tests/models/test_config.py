"""Configs: every key that diffusers and transformers write, what the hub's old files hold, and strictness."""

import dataclasses
import inspect

import diffusers
import pytest
import transformers

from ti_jax.errors import UserError
from ti_jax.models import unet, vae
from ti_jax.models.clip import CLIPTextConfig
from ti_jax.models.config import ANY, TRANSFORMERS_KEYS
from ti_jax.models.presets import preset
from ti_jax.models.unet import UNetConfig
from ti_jax.models.vae import AutoencoderKLConfig

KINDS = {
    "unet": (UNetConfig, unet._NEUTRAL, diffusers.UNet2DConditionModel),
    "vae": (AutoencoderKLConfig, vae._NEUTRAL, diffusers.AutoencoderKL),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_key_of_diffusers_is_known_and_defaults_are_equal(name):
    config, neutral, reference = KINDS[name]
    ours = {field.name: field.default for field in dataclasses.fields(config)}
    arguments = dict(list(inspect.signature(reference.__init__).parameters.items())[1:])
    assert not (ours.keys() | neutral.keys()) - arguments.keys()
    for key, argument in arguments.items():
        if key in ours:
            assert ours[key] == argument.default, key
        else:
            assert neutral[key] is ANY or argument.default in neutral[key], key
    assert config.from_dict({key: argument.default for key, argument in arguments.items()}) == config()


@pytest.mark.parametrize("values", [{}, {"hidden_act": "gelu", "num_hidden_layers": 2, "eos_token_id": 2}])
def test_what_transformers_writes(values):
    written = transformers.CLIPTextConfig(**values).to_dict()
    config = CLIPTextConfig.from_dict(written)
    for field in dataclasses.fields(config):
        if field.name != "with_projection":
            assert getattr(config, field.name) == written[field.name]


OLD_TEXT = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
OLD_UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
# What files between 0.10 and 0.17 have besides.
LATER_UNET = {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "num_class_embeds": None,
    "upcast_attention": None,
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "time_embedding_type": "positional",
}
OLD_VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}


def test_old_files_of_the_hub_are_the_presets():
    """SD 1.5 has no `projection_dim` in its file, nor do others of the time: nothing is projected."""
    sd1, sd2 = preset("sd-1.5"), preset("sd-2.1-base")
    text = CLIPTextConfig.from_dict(OLD_TEXT)
    assert dataclasses.replace(text, projection_dim=768, eos_token_id=49407) == sd1.text_encoder
    open_clip = {"hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    text = CLIPTextConfig.from_dict({**OLD_TEXT, **open_clip, "num_hidden_layers": 23, "torch_dtype": "float16"})
    assert dataclasses.replace(text, eos_token_id=49407) == sd2.text_encoder
    assert UNetConfig.from_dict(OLD_UNET) == sd1.unet
    assert UNetConfig.from_dict({**OLD_UNET, **LATER_UNET}) == sd2.unet
    assert AutoencoderKLConfig.from_dict(OLD_VAE) == sd1.vae
    assert AutoencoderKLConfig.from_dict({**OLD_VAE, "scaling_factor": 0.18215, "force_upcast": False}) == sd1.vae


def test_all_problems_are_said_at_once():
    with pytest.raises(UserError) as caught:
        UNetConfig.from_dict({"attention_type": "gated", "new": 1, "in_channels": None, "sample_size": 64})
    assert str(caught.value) == (
        "UNet: attention_type = 'gated' is not supported; new = 1 is not known; in_channels = None is not a valid value"
    )


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (UNetConfig, {"norm_num_groups": None}),  # networks without norms
        (UNetConfig, {"transformer_layers_per_block": [[1, 1], [2, 2]]}),
        (UNetConfig, {"layers_per_block": "2"}),
        (UNetConfig, {"center_input_sample": 1}),
        (UNetConfig, {"sample_size": -8}),
        (UNetConfig, {"layers_per_block": 10**7}),
        (UNetConfig, {"transformer_layers_per_block": [1, 1, 1, 10**7]}),
        (CLIPTextConfig, {"vocab_size": 10**12}),
        (UNetConfig, {"layers_per_block": True}),
        (AutoencoderKLConfig, {"block_out_channels": 64}),
        (AutoencoderKLConfig, {"scaling_factor": None}),
        (CLIPTextConfig, {"hidden_size": 768.0}),
    ],
)
def test_values_of_another_type(kind, values):
    (key,) = values
    with pytest.raises(UserError) as caught:
        kind.from_dict(values)
    assert key in str(caught.value)
    assert "is not a valid value" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (AutoencoderKLConfig, {"scaling_factor": 1}),
        (AutoencoderKLConfig, {"shift_factor": None}),
        (UNetConfig, {"sample_size": [64, 96]}),
        (UNetConfig, {"sample_size": None}),
    ],
)
def test_values_of_a_type_that_will_do(kind, values):
    kind.from_dict(values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"attention_head_dim": [5, 10]}, "attention_head_dim"),
        ({"attention_head_dim": 7}, "attention_head_dim = 7 does not divide 320"),
        ({"attention_head_dim": 0}, "attention_head_dim = 0 does not divide 320"),
        ({"norm_num_groups": 33}, "norm_num_groups = 33 does not divide 320"),
        ({"layers_per_block": [2, 2, 2, 2, 2]}, "layers_per_block"),
        ({"transformer_layers_per_block": [1]}, "transformer_layers_per_block"),
        ({"cross_attention_dim": [768]}, "cross_attention_dim"),
        ({"block_out_channels": [320, 640]}, "block_out_channels"),
        # diffusers raises too: it is a wrong name for the number of heads.
        ({"num_attention_heads": 8}, "num_attention_heads = 8"),
        ({"addition_embed_type": "text_time"}, "addition_time_embed_dim and projection_class_embeddings_input_dim"),
    ],
)
def test_unet_whose_values_do_not_go_together(values, named):
    with pytest.raises(UserError, match=named):
        UNetConfig.from_dict(values)


@pytest.mark.parametrize("values", [{"block_out_channels": [64, 64]}, {"up_block_types": ["UpDecoderBlock2D"] * 2}])
def test_autoencoder_whose_values_do_not_go_together(values):
    with pytest.raises(UserError, match="differ in length"):
        AutoencoderKLConfig.from_dict(values)


def test_generation_defaults_of_old_text_encoders_change_nothing():
    keys = {*TRANSFORMERS_KEYS} - {"architectures"}  # which says what class it is
    generation = dict.fromkeys(keys, "anything")
    assert CLIPTextConfig.from_dict({**OLD_TEXT, **generation}) == CLIPTextConfig.from_dict(OLD_TEXT)
