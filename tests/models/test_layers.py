"""Layers that the UNet and the autoencoder share, against PyTorch's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.downsampling import Downsample2D as TorchDownsample2D
from diffusers.models.resnet import ResnetBlock2D as TorchResnetBlock2D
from diffusers.models.upsampling import Upsample2D as TorchUpsample2D
from torch_pair import check, draws, nchw, nhwc, pair, run

from ti_jax.models.layers import Downsample2D, GroupNorm, ResnetBlock2D, Upsample2D
from ti_jax.weights import rules

TYPES = {"dtype": jnp.float32, "param_dtype": jnp.float32}


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("shape", [(2, 5, 4, 12), (2, 7, 12)])
def test_group_norm(shape, mean):
    """In float32 whatever goes in, also where the mean is large beside the deviation."""
    reference, ours = pair(
        torch.nn.GroupNorm(3, 12, eps=1e-3),
        lambda **t: GroupNorm(12, 3, 1e-3, **t),
        rules.UNET,
        param_dtype=jnp.float32,
    )
    x = jnp.asarray(draws(*shape) + np.float32(mean))

    def expected(x):
        # In float64: PyTorch's float32 kernel for channels-last loses four digits to a large mean.
        return reference.double()(torch.tensor(np.asarray(x, np.float64)).movedim(-1, 1)).movedim(1, -1)

    check(run(ours, x), expected(x), 1e-5)
    half = x.astype(jnp.bfloat16)
    assert run(ours, half).dtype == jnp.bfloat16
    check(run(ours, half), expected(half), float(jnp.finfo(jnp.bfloat16).eps) / 2)


def test_resnet_of_the_autoencoder_at_its_true_shape():
    """Without a time embedding; 128 channels, at 64x64."""
    reference, ours = pair(
        TorchResnetBlock2D(in_channels=128, out_channels=128, groups=32, eps=1e-6, temb_channels=None),
        lambda **t: ResnetBlock2D(128, 128, groups=32, epsilon=1e-6, **t),
        rules.VAE,
        **TYPES,
    )
    x = draws(1, 64, 64, 128)
    check(run(ours, x), nhwc(reference(nchw(x), None)), 1e-5)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize("padding", [0, 1])
def test_downsample(padding, size):
    reference = TorchDownsample2D(8, use_conv=True, out_channels=8, padding=padding, name="op")
    reference, ours = pair(reference, lambda **t: Downsample2D(8, padding, **t), rules.UNET, **TYPES)
    x = draws(2, *size, 8)
    check(run(ours, x), nhwc(reference(nchw(x))), 1e-5)


@pytest.mark.parametrize("size", [None, (10, 6), (9, 5), (9, 6), (11, 7)])
def test_upsample(size):
    reference, ours = pair(
        TorchUpsample2D(8, use_conv=True, out_channels=8), lambda **t: Upsample2D(8, **t), rules.UNET, **TYPES
    )
    x = draws(2, 5, 3, 8)
    check(ours(jnp.asarray(x), size), nhwc(reference(nchw(x), size)), 1e-5)
