"""Products in bfloat16 on a CPU, against float64 and against float32."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_pair import check, draws

import ti_jax
from ti_jax.models.attention import attention
from ti_jax.models.layers import Conv, conv, linear
from ti_jax.models.products import matmul
from ti_jax.weights.loader import parameter_name

ROUNDING = float(jnp.finfo(jnp.bfloat16).eps) / 2


def rounded(*shape, seed=0):
    """Numbers that bfloat16 has, in float32."""
    return jnp.asarray(draws(*shape, seed=seed)).astype(jnp.bfloat16).astype(jnp.float32)


def pull_back(function, *arguments):
    """Values, and the derivatives of their sum with weights that bfloat16 has."""
    values, backward = jax.vjp(function, *arguments)
    return values, *backward(rounded(*values.shape, seed=9).astype(values.dtype))


@pytest.mark.parametrize("outputs", [11, 900], ids=["small kernel", "kernel larger than what it is multiplied by"])
def test_sums_are_rounded_once(outputs):
    """Of bfloat16, product and derivatives are those of float64 but for one rounding."""
    x, kernel, slope = rounded(3, 5, 700), rounded(700, outputs, seed=1), rounded(3, 5, outputs, seed=9)
    found = jax.jit(lambda *a: pull_back(matmul, *a))(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    wide, wide_kernel, wide_slope = (np.asarray(a, np.float64) for a in (x, kernel, slope))
    of_kernel = np.einsum("abc,abd->cd", wide, wide_slope)
    for ours, expected in zip(found, (wide @ wide_kernel, wide_slope @ wide_kernel.T, of_kernel), strict=True):
        assert ours.dtype == jnp.bfloat16
        assert np.all(np.abs(np.asarray(ours, np.float64) - expected) <= 1.01 * ROUNDING * np.abs(expected) + 1e-4)


@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "kernel"),
    [(6, 5, (4, 7), 3), (64, 5, (4, 7), 3), (6, 5, (4, 7), 1), (256, 256, (20, 20), 3), (2, 3, (130, 128), 3)],
    ids=["many pixels", "many channels", "kernel of one pixel", "Winograd in float32", "large"],
)
def test_setting_changes_convolutions_by_rounding_only(inputs, outputs, size, kernel):
    """Of numbers that bfloat16 has, products in bfloat16 are exact."""
    module = jax.tree.map(lambda a: rounded(*a.shape, seed=3), conv(inputs, outputs, kernel, rngs=nnx.Rngs(0)))
    x = rounded(2, *size, inputs)
    expected = pull_back(Conv.__call__, module, x)
    with jax.default_matmul_precision("bfloat16"):
        found = jax.jit(lambda module, x: pull_back(Conv.__call__, module, x))(module, x)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32
        check(ours, theirs, 1e-5)


def test_setting_rounds_operands():
    """Of other numbers they are those of the rounded ones, which float32's own are not."""
    layer = linear(70, 9, rngs=nnx.Rngs(0))
    x = jnp.asarray(draws(4, 70))
    with jax.default_matmul_precision("bfloat16"):
        found = jax.jit(lambda x: layer(x))(x)
    kernel = layer.kernel[...].astype(jnp.bfloat16).astype(jnp.float32)
    check(found, rounded(4, 70) @ kernel, 1e-5)
    assert float(jnp.max(jnp.abs(found - layer(x)))) > 1e-4 * float(jnp.max(jnp.abs(found)))


@pytest.mark.parametrize("implementation", ["plain", "blocked"])
def test_setting_changes_attention_by_rounding_only(implementation):
    """Weights and their derivatives are rounded too."""
    arguments = [rounded(1, n, 2, 40, seed=n) for n in (600, 77, 77)]

    def attend(*arguments):
        return attention(*arguments, implementation=implementation)

    expected = pull_back(attend, *arguments)
    with jax.default_matmul_precision("bfloat16"):
        found = jax.jit(lambda *a: pull_back(attend, *a))(*arguments)
    for ours, theirs in zip(found, expected, strict=True):
        check(ours, theirs, 4 * ROUNDING)


@pytest.mark.parametrize(("dtype", "setting"), [("bfloat16", None), ("float32", "bfloat16")])
def test_every_product_with_a_kernel_comes_out_in_float32(dtype, setting):
    """In a UNet's forward and backward pass: XLA for CPUs has slow code for others."""
    unet = ti_jax.load("tiny", dtype=dtype).networks["unet"]
    sample, context = jnp.zeros((1, 16, 16, 4), dtype), jnp.zeros((1, 32, 128), dtype)

    def loss(context):
        return jnp.sum(unet(sample, jnp.zeros(1, jnp.int32), context).astype(jnp.float32))

    with jax.default_matmul_precision(setting):
        text = jax.jit(jax.grad(loss)).lower(context).as_text()
    lines = [line for line in text.splitlines() if "dot_general" in line and "batching_dims" not in line]
    types = [re.findall(r"tensor<\S*x(\w+)>", line) for line in lines]
    assert len(types) > 100
    assert all(own == ["bf16", "bf16", "f32"] for own in types)


def test_kernels_are_kept_as_products_round_them():
    """A model that is loaded under the setting gives what one with kernels that are rounded afterwards gives."""

    def rounded_kernel(path, leaf):
        return leaf.astype(jnp.bfloat16).astype(leaf.dtype) if parameter_name(path).endswith("kernel") else leaf

    by_hand = jax.tree_util.tree_map_with_path(rounded_kernel, ti_jax.load("tiny").networks["unet"])
    with jax.default_matmul_precision("bfloat16"):
        kept = ti_jax.load("tiny").networks
        for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
            assert leaf.dtype == (jnp.bfloat16 if parameter_name(path).endswith("kernel") else jnp.float32)
        inputs = jnp.asarray(draws(2, 16, 16, 4)), jnp.asarray([3, 700]), jnp.asarray(draws(2, 32, 128))
        found, expected = (jax.jit(lambda unet: unet(*inputs))(unet) for unet in (kept["unet"], by_hand))
    check(found, expected, 1e-6)
