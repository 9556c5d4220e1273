"""Norms, residual blocks and changes of size, against diffusers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.downsampling import Downsample2D as TorchDownsample2D
from diffusers.models.resnet import ResnetBlock2D as TorchResnetBlock2D
from diffusers.models.upsampling import Upsample2D as TorchUpsample2D
from parity import BLOCK, assert_close, normal, to_torch, twin

from ti_jax.models.layers import Downsample2D, GroupNorm, ResnetBlock2D, Upsample2D
from ti_jax.weights.rules import UNET


@torch.no_grad()
def test_group_norm():
    theirs = torch.nn.GroupNorm(4, 12, eps=1e-3)
    ours = twin(functools.partial(GroupNorm, 12, 4, 1e-3), theirs, UNET)
    x = normal(2, 5, 3, 12) * 3 + 7
    assert_close(ours(jnp.asarray(x)), theirs(to_torch(x)), BLOCK)


def test_group_norm_of_half_precision_is_computed_in_float32():
    """In float16 the mean of these squares would overflow."""
    norm = GroupNorm(8, 2, 1e-5, rngs=None)
    x = jnp.asarray(normal(1, 16, 16, 8) * 300 + 600, jnp.float16)
    result = norm(x)
    assert result.dtype == jnp.float16
    assert_close(result, norm(x.astype(jnp.float32)), 1e-3)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12)], ids=["same", "wider"])
@pytest.mark.parametrize("temb", [None, 20], ids=["", "time"])
@torch.no_grad()
def test_residual_block(inputs, outputs, temb):
    theirs = TorchResnetBlock2D(
        in_channels=inputs, out_channels=outputs, temb_channels=temb, groups=4, eps=1e-6, time_embedding_norm="default"
    )
    build = functools.partial(ResnetBlock2D, inputs, outputs, groups=4, epsilon=1e-6, temb_channels=temb)
    ours = twin(build, theirs, UNET)
    x, time = normal(2, 4, 6, inputs), None if temb is None else normal(2, temb, seed=1)
    expected = theirs(to_torch(x), None if time is None else to_torch(time))
    assert_close(jax.jit(lambda m, *x: m(*x))(ours, x, time), expected, BLOCK)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=["even", "odd"])
@pytest.mark.parametrize("padding", [0, 1], ids=["autoencoder", "unet"])
@torch.no_grad()
def test_half_the_size(padding, size):
    theirs = TorchDownsample2D(6, use_conv=True, padding=padding)
    ours = twin(functools.partial(Downsample2D, 6, padding), theirs, UNET)
    x = normal(2, *size, 6)
    assert_close(ours(jnp.asarray(x)), theirs(to_torch(x)), BLOCK)


@pytest.mark.parametrize("size", [None, (8, 10), (7, 9), (7, 10)], ids=str)
@torch.no_grad()
def test_twice_the_size(size):
    """Or the size that the way down had before it halved an odd one."""
    theirs = TorchUpsample2D(6, use_conv=True)
    ours = twin(functools.partial(Upsample2D, 6), theirs, UNET)
    x = normal(2, 4, 5, 6)
    assert_close(ours(jnp.asarray(x), size), theirs(to_torch(x), size), BLOCK)


@pytest.mark.parametrize("channels", [320, 1280])
@torch.no_grad()
def test_residual_block_of_sd_15(channels):
    """The first and the last level of the UNet at 512 pixels."""
    size = {320: 64, 1280: 8}[channels]
    theirs = TorchResnetBlock2D(in_channels=channels, out_channels=channels, temb_channels=1280, groups=32, eps=1e-5)
    build = functools.partial(ResnetBlock2D, channels, channels, groups=32, epsilon=1e-5, temb_channels=1280)
    ours = twin(build, theirs, UNET)
    x, time = normal(1, size, size, channels), normal(1, 1280, seed=1)
    assert_close(ours(jnp.asarray(x), jnp.asarray(time)), theirs(to_torch(x), to_torch(time)), BLOCK)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_residual_block_in_half_precision(dtype):
    theirs = TorchResnetBlock2D(in_channels=8, out_channels=12, temb_channels=20, groups=4, eps=1e-5)
    build = functools.partial(ResnetBlock2D, 8, 12, groups=4, epsilon=1e-5, temb_channels=20, dtype=dtype)
    ours = twin(build, theirs, UNET)
    x, time = normal(2, 4, 6, 8), normal(2, 20, seed=1)
    result = ours(jnp.asarray(x, dtype), jnp.asarray(time, dtype))
    assert result.dtype == dtype
    assert_close(result, theirs(to_torch(x), to_torch(time)), 2 * float(jnp.finfo(dtype).eps))
    assert np.isfinite(np.asarray(result, np.float32)).all()
