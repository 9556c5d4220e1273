"""The rule tables: every name of a real network, both ways."""

import diffusers
import numpy as np
import pytest
import transformers

from ti_jax.weights import rules
from ti_jax.weights.rules import Rule, Rules, our_shape, parameters_of, tensor_of, to_ours, to_theirs

TRANSFORMS = {"copy": (3,), "transpose": (3, 2), "conv": (5, 4, 3, 2), "flatten_conv": (3, 2, 1, 1)}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_inverse(transform):
    tensor = np.arange(np.prod(TRANSFORMS[transform])).reshape(TRANSFORMS[transform])
    ours = to_ours(transform, tensor)
    assert ours.shape == our_shape(transform, tensor.shape)
    np.testing.assert_array_equal(to_theirs(transform, ours), tensor)


TEXT = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
UNET = {
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 32,
    "use_linear_projection": True,
}
NETWORKS = {
    "text": (rules.CLIP_TEXT, lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT))),
    "projection": (
        rules.CLIP_TEXT,
        lambda: transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**TEXT)),
    ),
    "sd": (rules.UNET, lambda: diffusers.UNet2DConditionModel(**UNET)),
    "sdxl": (rules.UNET, lambda: diffusers.UNet2DConditionModel(**UNET, **SDXL)),
    "vae": (rules.VAE, lambda: diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)),
}
"""With every kind of parameter that Stable Diffusion 1, 2 and XL have."""


@pytest.mark.parametrize("name", NETWORKS)
def test_every_name_is_one_parameter_and_comes_back(name):
    table, build = NETWORKS[name]
    network = build()
    seen = set()
    for name, tensor in network.state_dict().items():
        ((parameter, transform),) = parameters_of(table, name, tensor.ndim)
        seen.add(parameter)
        ndim = len(our_shape(transform, tuple(tensor.shape)))
        assert tensor_of(table, parameter, ndim) == (name.removeprefix("text_model."), transform)
    assert len(seen) == len(network.state_dict())


def test_two_rules_that_fit_are_both_found():
    table = Rules((Rule("weight", "kernel"), Rule("weight", "scale", ndim=1)))
    assert parameters_of(table, "norm.weight", 1) == [("norm.kernel", "copy"), ("norm.scale", "copy")]
    assert parameters_of(table, "norm.weight", 2) == [("norm.kernel", "copy")]


def test_a_name_without_a_rule_fits_nothing():
    assert parameters_of(rules.UNET, "conv_in.running_mean", 1) == []
