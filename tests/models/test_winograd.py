"""Winograd's convolution against XLA's, and where it is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_pair import check
from torch_pair import draws as numpy_draws

from ti_jax.models import winograd
from ti_jax.models.layers import Conv, conv
from ti_jax.weights.loader import abstract_network


def draws(*shape, seed=0):
    return jnp.asarray(numpy_draws(*shape, seed=seed))


def direct(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1), (3, 10)], ids=str)
def test_convolution_and_both_derivatives(size):
    """Also where padding makes up whole tiles."""
    x, kernel, slope = draws(2, *size, 6), draws(3, 3, 6, 5, seed=1), draws(2, *size, 5, seed=2)

    def pulled_back(convolve):
        output, backward = jax.vjp(convolve, x, kernel)
        return output, *backward(slope)

    for ours, expected in zip(
        jax.jit(pulled_back, static_argnums=0)(winograd.convolve), pulled_back(direct), strict=True
    ):
        check(ours, expected, 1e-5)


@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_rounding_at_true_shape(mean):
    """Of a layer of SD 1.5, against float64, also where neighbours cancel."""
    x, kernel = draws(1, 16, 16, 640) + jnp.float32(mean), draws(3, 3, 640, 320, seed=1)
    weights = np.asarray(kernel, np.float64)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(padded[:, i : i + 16, j : j + 16] @ weights[i, j] for i in range(3) for j in range(3))
    check(jax.jit(winograd.convolve)(x, kernel), expected, 1e-5)


def test_examples_do_not_meet():
    """What is not a number in one leaves the others as they are."""
    x, kernel = draws(2, 6, 6, 4), draws(3, 3, 4, 4, seed=1)
    bad = x.at[0].set(jnp.nan)
    convolve = jax.jit(winograd.convolve)
    assert jnp.isnan(convolve(bad, kernel)[0]).all()
    np.testing.assert_array_equal(convolve(bad, kernel)[1], convolve(x, kernel)[1])


@pytest.mark.parametrize(
    ("shape", "outputs", "chosen"),
    [
        ((1, 64, 64, 320), 320, True),
        ((4, 64, 64, 640), 640, True),
        ((1, 32, 32, 640), 640, False),
        ((64, 32, 32, 640), 640, False),
        ((1, 64, 64, 320), 4, False),
        ((1, 16, 16, 128), 128, False),
        ((1, 512, 512, 256), 256, False),
    ],
    ids=[
        "SD's first level",
        "its second",
        "its third",
        "many examples",
        "into latents",
        "bundled model",
        "large picture",
    ],
)
def test_choice_by_shape(shape, outputs, chosen):
    assert winograd.pays(shape, outputs) == chosen


@pytest.mark.parametrize(
    ("dtype", "platform", "chosen"),
    [
        (jnp.float32, "cpu", True),
        (jnp.bfloat16, "cpu", False),
        (jnp.float16, "cpu", False),
        (jnp.float32, "tpu", False),
    ],
)
def test_choice_by_type_and_platform(dtype, platform, chosen):
    """Half precision would lose too much, and other platforms have convolutions of their own."""
    layer = abstract_network(lambda **types: conv(256, 256, **types, dtype=dtype))
    x = jax.ShapeDtypeStruct((1, 32, 32, 256), dtype)
    lowered = jax.jit(Conv.__call__).trace(layer, x).lower(lowering_platforms=(platform,)).as_text()
    assert ("36x64x256" in lowered) == chosen
