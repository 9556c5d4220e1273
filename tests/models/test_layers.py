"""Norms, residual blocks and changes of size, against diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.downsampling import Downsample2D as TorchDownsample
from diffusers.models.resnet import ResnetBlock2D as TorchResnet
from diffusers.models.upsampling import Upsample2D as TorchUpsample
from torch_pair import check, draws, nchw, nhwc, pair, run

from ti_jax.models.layers import Conv, Downsample2D, GroupNorm, ResnetBlock2D, Upsample2D, conv
from ti_jax.weights.rules import UNET

TYPES = {"dtype": jnp.float32, "param_dtype": jnp.float32}


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("shape", [(2, 5, 4, 12), (2, 7, 12)])
def test_group_norm(shape, mean):
    """In float32 whatever goes in, also where the mean is large beside the deviation."""
    reference, ours = pair(
        torch.nn.GroupNorm(3, 12, eps=1e-3),
        lambda **t: GroupNorm(12, 3, 1e-3, **t),
        UNET,
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


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "kernel"),
    [(6, 5, (4, 7), 3), (64, 5, (4, 7), 3), (64, 5, (1, 1), 3), (6, 5, (4, 7), 1)],
    ids=["many pixels", "many channels", "one pixel", "kernel of one pixel"],
)
def test_convolution_and_gradient(inputs, outputs, size, kernel):
    """Where there are more channels than pixels, or the kernel has one pixel, it is a matrix product on the CPU."""
    theirs = torch.nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    reference, ours = pair(theirs, lambda **t: conv(inputs, outputs, kernel, **t), UNET, dtype=jnp.float32)
    x, weights = draws(2, *size, inputs), draws(2, *size, outputs, seed=1)
    given = nchw(x).requires_grad_()
    expected = reference.requires_grad_(True)(given)
    by_x, by_kernel = torch.autograd.grad((expected * nchw(weights)).sum(), (given, reference.weight))

    def pull_back(module, x, weights):
        output, backward = jax.vjp(Conv.__call__, module, x)
        return output, *backward(weights)

    output, by_module, ours_by_x = jax.jit(pull_back)(ours, x, weights)
    check(output, nhwc(expected), 1e-5)
    check(ours_by_x, nhwc(by_x), 1e-5)
    check(by_module.kernel[...], by_kernel.permute(2, 3, 1, 0), 1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_the_cpu_has_a_matrix_product(platform):
    _, ours = pair(torch.nn.Conv2d(64, 4, 3, padding=1), lambda **t: conv(64, 4, **t), UNET)
    lowered = jax.jit(Conv.__call__).trace(ours, draws(1, 4, 4, 64)).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in lowered) == (platform != "cpu")


@pytest.mark.parametrize("temb", [None, 20], ids=["", "time"])
@pytest.mark.parametrize("outputs", [8, 12], ids=["same", "wider"])
def test_residual_block(outputs, temb):
    """With and without a convolution in the skip, as in the UNet and in the autoencoder."""
    reference, ours = pair(
        TorchResnet(in_channels=8, out_channels=outputs, temb_channels=temb, groups=4, eps=1e-6),
        lambda **t: ResnetBlock2D(8, outputs, groups=4, epsilon=1e-6, temb_channels=temb, **t),
        UNET,
    )
    arguments = [draws(2, 4, 6, 8)] + ([] if temb is None else [draws(2, temb, seed=1)])
    expected = reference(nchw(arguments[0]), None if temb is None else torch.tensor(arguments[1]))
    check(run(ours, *arguments), nhwc(expected), 1e-5)


@pytest.mark.parametrize(("channels", "side"), [(320, 64), (1280, 8)])
def test_residual_block_at_true_shape(channels, side):
    """In the first and in the last level of SD 1.5 at 512 pixels."""
    reference, ours = pair(
        TorchResnet(in_channels=channels, out_channels=channels, temb_channels=1280, groups=32, eps=1e-5),
        lambda **t: ResnetBlock2D(channels, channels, groups=32, epsilon=1e-5, temb_channels=1280, **t),
        UNET,
    )
    x, temb = draws(1, side, side, channels), draws(1, 1280, seed=1)
    check(run(ours, x, temb), nhwc(reference(nchw(x), torch.tensor(temb))), 1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("channels", [8, 64])
def test_residual_block_in_half_precision(channels, dtype):
    reference, ours = pair(
        TorchResnet(in_channels=channels, out_channels=12, temb_channels=20, groups=4, eps=1e-5),
        lambda **t: ResnetBlock2D(channels, 12, groups=4, epsilon=1e-5, temb_channels=20, **t),
        UNET,
        dtype=dtype,
        param_dtype=dtype,
    )
    x, temb = draws(2, 4, 6, channels), draws(2, 20, seed=1)
    result = run(ours, jnp.asarray(x, dtype), jnp.asarray(temb, dtype))
    assert result.dtype == dtype
    check(result, nhwc(reference(nchw(x), torch.tensor(temb))), 4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("size", [(4, 6), (5, 7)], ids=["even", "odd"])
@pytest.mark.parametrize("padding", [0, 1], ids=["autoencoder", "unet"])
def test_half_the_size(padding, size):
    theirs = TorchDownsample(6, use_conv=True, padding=padding, name="op")
    reference, ours = pair(theirs, lambda **t: Downsample2D(6, padding, **t), UNET, **TYPES)
    x = draws(2, *size, 6)
    check(run(ours, x), nhwc(reference(nchw(x))), 1e-5)


@pytest.mark.parametrize("size", [None, (8, 10), (7, 9), (7, 10)], ids=str)
def test_twice_the_size(size):
    """Or the size that the way down had before it halved an odd one."""
    reference, ours = pair(TorchUpsample(6, use_conv=True), lambda **t: Upsample2D(6, **t), UNET)
    x = draws(2, 4, 5, 6)
    output = jax.jit(lambda m, x: m(x, size))(ours, x)
    check(output, nhwc(reference(nchw(x), size)), 1e-5)
    assert np.asarray(output).shape[1:3] == (size or (8, 10))
