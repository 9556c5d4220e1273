"""The published models at their true shapes, against PyTorch: every tensor by name and shape, and parts of the networks
with random weights."""

import functools
from dataclasses import asdict

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig as TorchBertConfig
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel as TorchBert
from torch_pair import check, draws, nchw, nhwc, pair, run

from ti_jax.models.bert import LDMBertConfig
from ti_jax.models.presets import PRESETS, preset
from ti_jax.models.unet import UNetConfig
from ti_jax.models.unet_blocks import DownBlock
from ti_jax.models.vae import AutoencoderKLConfig
from ti_jax.pipeline import NETWORKS
from ti_jax.weights.loader import _plan, abstract_network, parameter_name
from ti_jax.weights.model_files import RULES
from ti_jax.weights.rules import UNET
from ti_jax.weights.tensors import TorchTensor


def torch_network(config):
    """The same network of PyTorch."""
    values = asdict(config)
    if isinstance(config, LDMBertConfig):
        return TorchBert(TorchBertConfig(**values))
    if isinstance(config, UNetConfig):
        return diffusers.UNet2DConditionModel(**values)
    if isinstance(config, AutoencoderKLConfig):
        return diffusers.AutoencoderKL(**values)
    projected = values.pop("with_projection")
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(transformers.CLIPTextConfig(**values))


@pytest.mark.parametrize("name", PRESETS)
def test_every_tensor_has_its_place(name):
    found = preset(name)
    for config in filter(None, (found.text_encoder, found.text_encoder_2, found.unet, found.vae)):
        with torch.device("meta"):
            state = torch_network(config).state_dict()
        tensors = {name: TorchTensor(tensor) for name, tensor in state.items()}
        network = abstract_network(functools.partial(NETWORKS[type(config)], config))
        shapes = {parameter_name(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(network)[0]}
        assert _plan(shapes, tensors, RULES[type(config)])[1] == []


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("sd-1.5", 0),
        ("sdxl", 1),
        *(pytest.param(*block, marks=pytest.mark.slow) for block in (("ldm", 0), ("sdxl", 2))),
    ],
)
def test_down_block_of_the_unet(name, index):
    """At fewer pixels. The last of SDXL has ten layers of transformers in a row."""
    levels = preset(name).unet.levels()
    level, inputs = levels[index], levels[max(0, index - 1)].channels
    last = index == len(levels) - 1
    reference = CrossAttnDownBlock2D(
        in_channels=inputs,
        out_channels=level.channels,
        temb_channels=level.temb_channels,
        num_layers=level.resnets,
        resnet_eps=level.epsilon,
        resnet_groups=level.groups,
        num_attention_heads=level.heads,
        cross_attention_dim=level.context,
        use_linear_projection=level.linear_projection,
        transformer_layers_per_block=level.transformer_layers,
        add_downsample=not last,
    )
    build = functools.partial(DownBlock, level, inputs, downsample_padding=None if last else 1)
    reference, ours = pair(reference, build, UNET, dtype=jnp.float32, param_dtype=jnp.float32)
    x, temb, context = draws(1, 8, 8, inputs), draws(1, level.temb_channels, seed=1), draws(1, 77, level.context)
    expected, _ = reference(nchw(x), torch.tensor(temb), encoder_hidden_states=torch.tensor(context))
    check(run(ours, x, temb, context)[0], nhwc(expected), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "encoder"), [("sdxl", "text_encoder"), ("sdxl", "text_encoder_2"), ("ldm", "text_encoder")]
)
def test_text_encoder(name, encoder):
    config = getattr(preset(name), encoder)
    build = functools.partial(NETWORKS[type(config)], config)
    reference, ours = pair(torch_network(config), build, RULES[type(config)])
    ids = np.random.default_rng(0).integers(0, config.vocab_size - 2, (1, 77))
    ids[0, 60] = config.vocab_size - 1  # the end, for CLIP
    found = run(ours, run(ours, jnp.asarray(ids), method="embed"), jnp.asarray([60]))
    if name == "ldm":
        check(found.last_hidden_state, reference(torch.tensor(ids))[0], 1e-4)
        return
    expected = reference(torch.tensor(ids), output_hidden_states=True)
    check(found.penultimate_hidden_state, expected.hidden_states[-2], 1e-4)
    if config.with_projection:
        check(found.pooled, expected.text_embeds, 1e-4)
