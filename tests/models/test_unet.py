"""The UNet against diffusers, by block and whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel as TorchUNet
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.transformers.transformer_2d import Transformer2DModel as TorchTransformer
from diffusers.models.unets import unet_2d_blocks as blocks
from flax import nnx
from torch_pair import check, draws, nchw, nhwc, pair, run

from ti_jax.compilation import compiler_options
from ti_jax.errors import UserError
from ti_jax.models import attention
from ti_jax.models.transformer import Transformer2DModel
from ti_jax.models.unet import UNet2DConditionModel, UNetConfig, sinusoids
from ti_jax.models.unet_blocks import DownBlock, Level, MidBlock, UpBlock
from ti_jax.weights.loader import abstract_network
from ti_jax.weights.rules import UNET

TYPES = {"dtype": jnp.float32, "param_dtype": jnp.float32}
TEMB, CONTEXT = 24, 20
SIZES = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "cross_attention_dim": CONTEXT,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
NETWORKS = {
    "sd1": {"attention_head_dim": 4, "layers_per_block": 2},
    "sd2": {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "layers_per_block": 1,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 8 * 6 + 10,
        "transformer_layers_per_block": (1, 2),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "unusual": {
        "attention_head_dim": 2,
        "layers_per_block": 1,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "center_input_sample": True,
        "norm_eps": 1e-4,
        "in_channels": 5,
    },
}


@pytest.mark.parametrize(("name", "with_gradient"), [("sd1", True), ("sd2", True), ("sdxl", False), ("unusual", False)])
def test_whole_network(name, with_gradient):
    """With an odd size of latents, so that the way up has to be told sizes; two of them with the gradient, too."""
    reference = TorchUNet(**{**SIZES, **NETWORKS[name]})
    config = UNetConfig.from_dict(dict(reference.config))
    reference, ours = pair(reference, lambda **t: UNet2DConditionModel(config, **t), UNET, **TYPES)
    sample, context = draws(2, 6, 7, config.in_channels), draws(2, 5, CONTEXT, seed=1)
    timesteps, added, torch_added = np.array([3, 981]), None, None
    if config.addition_embed_type:
        arrays = {"text_embeds": draws(2, 10, seed=2), "time_ids": np.abs(draws(2, 6, seed=3)) * 100}
        added = {key: jnp.asarray(value) for key, value in arrays.items()}
        torch_added = {key: torch.tensor(value) for key, value in arrays.items()}
    torch_context = torch.tensor(context, requires_grad=True)
    expected = reference(nchw(sample), torch.tensor(timesteps), torch_context, added_cond_kwargs=torch_added).sample

    def squares(context, network):
        output = network(jnp.asarray(sample), jnp.asarray(timesteps), context, added)
        return jnp.sum(jnp.square(output)), output

    if not with_gradient:
        check(jax.jit(squares)(context, ours)[1], nhwc(expected), 1e-4)
        return
    (gradient,) = torch.autograd.grad(expected.square().sum(), torch_context)
    ours_gradient, output = jax.jit(jax.grad(squares, has_aux=True))(context, ours)
    check(output, nhwc(expected), 1e-4)
    check(ours_gradient, gradient, 1e-4)


def _level(*, attention, channels=16, groups=4, heads=2, context=CONTEXT, temb=TEMB, linear=False, layers=1):
    return Level(
        channels=channels,
        resnets=2,
        temb_channels=temb,
        groups=groups,
        epsilon=1e-5,
        attention=attention,
        heads=heads,
        context=context,
        transformer_layers=layers,
        linear_projection=linear,
    )


def _options(level):
    """The same level in diffusers' words."""
    options = {"temb_channels": level.temb_channels, "resnet_eps": level.epsilon, "resnet_groups": level.groups}
    if level.attention:
        options |= {
            "num_attention_heads": level.heads,
            "cross_attention_dim": level.context,
            "use_linear_projection": level.linear_projection,
            "transformer_layers_per_block": level.transformer_layers,
        }
    return options


def _inputs(h, w, channels, level):
    return draws(1, h, w, channels), draws(1, level.temb_channels, seed=1), draws(1, 7, level.context, seed=2)


LEVELS = {
    "plain": _level(attention=False),
    "convolution": _level(attention=True),
    "linear": _level(attention=True, linear=True, layers=2),
}


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("last", [True, False])
def test_down_block(name, last):
    level = LEVELS[name]
    kind = blocks.CrossAttnDownBlock2D if level.attention else blocks.DownBlock2D
    reference = kind(in_channels=8, out_channels=16, num_layers=2, add_downsample=not last, **_options(level))
    padding = None if last else 1
    _check_down(reference, level, 8, padding, _inputs(6, 5, 8, level))


def _check_down(reference, level, inputs, padding, arguments):
    reference, ours = pair(
        reference, lambda **t: DownBlock(level, inputs, downsample_padding=padding, **t), UNET, **TYPES
    )
    x, temb, context = arguments
    extra = {"encoder_hidden_states": torch.tensor(context)} if level.attention else {}
    expected, expected_skips = reference(nchw(x), torch.tensor(temb), **extra)
    output, skips = run(ours, x, temb, context)
    check(output, nhwc(expected), 1e-5)
    for skip, wanted in zip(skips, expected_skips, strict=True):
        check(skip, nhwc(wanted), 1e-5)


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("size", [None, (8, 10), (7, 9)])
def test_up_block(name, size):
    """Last, doubling, and to a size that is not the double."""
    level = LEVELS[name]
    kind = blocks.CrossAttnUpBlock2D if level.attention else blocks.UpBlock2D
    reference = kind(
        in_channels=8,
        prev_output_channel=12,
        out_channels=16,
        num_layers=3,
        add_upsample=size is not None,
        **_options(level),
    )
    channels = [16, 16, 8]
    reference, ours = pair(
        reference, lambda **t: UpBlock(level, 12, channels, upsample=size is not None, **t), UNET, **TYPES
    )
    x, temb, context = _inputs(4, 5, 12, level)
    skips = [draws(1, 4, 5, c, seed=5 + i) for i, c in enumerate(reversed(channels))]
    extra = {"encoder_hidden_states": torch.tensor(context)} if level.attention else {}
    expected = reference(
        nchw(x), tuple(map(nchw, skips)), torch.tensor(temb), upsample_size=size if size == (7, 9) else None, **extra
    )
    output = jax.jit(lambda m, x, s, t, c: m(x, s, t, c, size=size))(ours, x, skips, temb, context)
    check(output, nhwc(expected), 1e-5)


@pytest.mark.parametrize("linear", [True, False])
def test_mid_block(linear):
    level = _level(attention=True, linear=linear)
    reference = blocks.UNetMidBlock2DCrossAttn(in_channels=16, **_options(level))
    reference, ours = pair(reference, lambda **t: MidBlock(level, **t), UNET, **TYPES)
    x, temb, context = _inputs(4, 3, 16, level)
    expected = reference(nchw(x), torch.tensor(temb), encoder_hidden_states=torch.tensor(context))
    check(run(ours, x, temb, context), nhwc(expected), 1e-5)


@pytest.mark.parametrize(
    ("linear", "largest_plain"), [(True, 10**9), (False, 0)], ids=["linear", "convolution, blocked"]
)
def test_transformer_and_gradient(linear, largest_plain, monkeypatch):
    """With whole matrices of scores and in blocks of which the last is not full."""
    monkeypatch.setattr(attention, "_SMALLEST_BLOCKED", largest_plain)
    monkeypatch.setattr(attention, "BLOCK", 8)
    reference = TorchTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=16,
        num_layers=2,
        cross_attention_dim=CONTEXT,
        norm_num_groups=4,
        use_linear_projection=linear,
    )
    reference, ours = pair(
        reference,
        lambda **t: Transformer2DModel(16, CONTEXT, 2, layers=2, groups=4, linear_projection=linear, **t),
        UNET,
        **TYPES,
    )
    x, context, weights = draws(2, 4, 3, 16), draws(2, 5, CONTEXT, seed=1), draws(2, 4, 3, 16, seed=2)
    theirs = torch.tensor(context, requires_grad=True)
    expected = reference(nchw(x), encoder_hidden_states=theirs).sample
    (gradient,) = torch.autograd.grad((expected * nchw(weights)).sum(), theirs)

    def pull_back(module, context):
        output, backward = jax.vjp(lambda c: module(jnp.asarray(x), c), context)
        return output, *backward(jnp.asarray(weights))

    output, ours_gradient = jax.jit(pull_back)(ours, context)
    check(output, nhwc(expected), 1e-5)
    check(ours_gradient, gradient, 1e-5)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_sinusoids(flip, shift):
    positions = np.array([0.0, 1.0, 500.5, 999.0], np.float32)
    expected = get_timestep_embedding(torch.tensor(positions), 32, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    # float32 angles near 1,000 are known to 6e-5; the two libraries round them differently.
    check(sinusoids(jnp.asarray(positions), 32, flip_sin_to_cos=flip, freq_shift=shift), expected, 1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
    """One level, which has every kind of layer but the change of size."""
    one_level = {"block_out_channels": (16,), "down_block_types": ("CrossAttnDownBlock2D",), "layers_per_block": 1}
    reference = TorchUNet(**{**SIZES, **one_level, "up_block_types": ("CrossAttnUpBlock2D",)})
    config = UNetConfig.from_dict(dict(reference.config))
    reference, ours = pair(
        reference, lambda **t: UNet2DConditionModel(config, **t), UNET, dtype=dtype, param_dtype=dtype
    )
    sample, context = draws(1, 8, 8, 4), draws(1, 5, CONTEXT, seed=1)
    output = run(ours, sample, jnp.asarray([500]), context)
    assert output.dtype == dtype
    expected = reference(nchw(sample), torch.tensor([500]), torch.tensor(context)).sample
    check(output, nhwc(expected), 16 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
        ({"addition_embed_type": "image"}, "addition_embed_type = 'image'"),
        ({"new_option": 3, "_ignored": 4}, "new_option = 3 is not known"),
    ],
)
def test_config_is_strict(values, named):
    with pytest.raises(UserError, match=named):
        UNetConfig.from_dict(values)


def test_missing_keys_take_the_defaults_of_diffusers():
    defaults = UNetConfig.from_dict(dict(TorchUNet(**SIZES).config))
    assert UNetConfig.from_dict(SIZES) == defaults


def test_what_backward_computes_again_takes_less_memory_and_changes_no_gradient():
    one_level = {"block_out_channels": (16,), "down_block_types": SIZES["down_block_types"][:1]}
    config = UNetConfig(**{**SIZES, **one_level, "up_block_types": SIZES["up_block_types"][1:]}, attention_head_dim=4)
    network = UNet2DConditionModel(config, rngs=nnx.Rngs(0), **TYPES)
    sample, context = draws(2, 12, 12, config.in_channels), draws(2, 5, CONTEXT, seed=1)

    def squares(context, network, remat):
        return jnp.sum(jnp.square(network(jnp.asarray(sample), jnp.array([3, 981]), context, remat=remat)))

    gradients, memory = [], []
    for remat in ("none", "blocks", "everything"):
        lowered = jax.jit(jax.grad(squares), static_argnums=2).lower(context, network, remat)
        compiled = lowered.compile(compiler_options=compiler_options("cpu"))
        gradients.append(compiled(context, network))
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    for gradient in gradients[1:]:
        np.testing.assert_allclose(gradient, gradients[0], rtol=0, atol=1e-5 * np.abs(gradients[0]).max())
    assert memory[1] < memory[0] / 2
    assert memory[2] < memory[1]


def test_blocks_of_the_same_shapes_are_traced_once():
    config = UNetConfig(**{**SIZES, "layers_per_block": 3}, attention_head_dim=4)
    network = abstract_network(lambda rngs: UNet2DConditionModel(config, rngs=rngs))
    shapes = jnp.zeros((1, 12, 12, config.in_channels)), jnp.zeros(1, jnp.int32), jnp.zeros((1, 5, CONTEXT))
    equations = jax.make_jaxpr(UNet2DConditionModel.__call__)(network, *shapes).eqns
    traces = [equation.params["jaxpr"] for equation in equations if equation.params.get("name") == "__call__"]
    assert len(traces) > 20
    assert len({id(trace) for trace in traces}) < 0.6 * len(traces)
