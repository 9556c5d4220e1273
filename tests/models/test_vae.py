"""The autoencoder against diffusers, by block and whole."""

import jax.numpy as jnp
import pytest
from diffusers import AutoencoderKL as TorchVAE
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D as TorchDown
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D as TorchMid
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D as TorchUp
from torch_pair import check, draws, nchw, nhwc, pair, run

from ti_jax.errors import UserError
from ti_jax.models.vae import AutoencoderKL, AutoencoderKLConfig, DownEncoderBlock2D, UpDecoderBlock2D, VAEMidBlock
from ti_jax.weights.rules import VAE

TYPES = {"dtype": jnp.float32, "param_dtype": jnp.float32}
SIZES = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}


@pytest.mark.parametrize("quantised", [True, False])
def test_whole_network(quantised):
    reference = TorchVAE(**SIZES, use_quant_conv=quantised, use_post_quant_conv=quantised)
    config = AutoencoderKLConfig.from_dict(dict(reference.config))
    reference, ours = pair(reference, lambda **t: AutoencoderKL(config, **t), VAE, **TYPES)
    images = draws(2, 16, 12, 3)
    expected = reference.encode(nchw(images)).latent_dist
    mean, log_variance = run(ours, images, method="encode")
    check(mean, nhwc(expected.mean), 1e-4)
    check(log_variance, nhwc(expected.logvar), 1e-4)  # the reference clips at 20, which random weights do not reach
    decoded = nhwc(reference.decode(expected.mean).sample)
    check(run(ours, mean, method="decode"), decoded, 1e-4)
    check(run(ours, mean, method="decode_sliced"), decoded, 1e-4)


@pytest.mark.parametrize("last", [True, False])
def test_down_block(last):
    reference, ours = pair(
        TorchDown(8, 16, num_layers=2, resnet_groups=4, downsample_padding=0, add_downsample=not last),
        lambda **t: DownEncoderBlock2D(8, 16, 2, 4, downsample=not last, **t),
        VAE,
        **TYPES,
    )
    x = draws(2, 9, 6, 8)
    check(run(ours, x), nhwc(reference(nchw(x))), 1e-5)


@pytest.mark.parametrize("last", [True, False])
def test_up_block(last):
    reference, ours = pair(
        TorchUp(8, 16, num_layers=2, resnet_groups=4, add_upsample=not last),
        lambda **t: UpDecoderBlock2D(8, 16, 2, 4, upsample=not last, **t),
        VAE,
        **TYPES,
    )
    x = draws(2, 5, 6, 8)
    check(run(ours, x), nhwc(reference(nchw(x))), 1e-5)


@pytest.mark.parametrize(("channels", "groups", "side"), [(16, 4, 6), (512, 32, 16)])
def test_mid_block(channels, groups, side):
    """Small, and with the channels of SD 1.5."""
    reference, ours = pair(
        TorchMid(channels, temb_channels=None, resnet_groups=groups, attention_head_dim=channels),
        lambda **t: VAEMidBlock(channels, groups, **t),
        VAE,
        **TYPES,
    )
    x = draws(1, side, side, channels)
    check(run(ours, x), nhwc(reference(nchw(x), None)), 1e-5)


def test_config_is_strict():
    with pytest.raises(UserError, match="mid_block_add_attention = False"):
        AutoencoderKLConfig.from_dict({"mid_block_add_attention": False})
    with pytest.raises(UserError, match="AttnDownEncoderBlock2D"):
        AutoencoderKLConfig.from_dict({"down_block_types": ["AttnDownEncoderBlock2D"]})
    assert AutoencoderKLConfig.from_dict({}) == AutoencoderKLConfig()
