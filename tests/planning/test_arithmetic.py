"""Counted products against XLA's own count, where XLA can count: no loops, no kernels of others."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from ti_jax.models.attention import attention
from ti_jax.models.attention_gpu import planned_for
from ti_jax.planning.arithmetic import Unknown, attention_flops, count_flops, find_scope

SHAPE = jax.ShapeDtypeStruct((64, 64), jnp.float32)


def ours(function, *arguments, platform="cpu"):
    return count_flops(jax.make_jaxpr(function)(*arguments).jaxpr, platform)


def xlas(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def convolve(strides, padding, groups, x, kernel):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=names, feature_group_count=groups
    )


@pytest.mark.parametrize("wanted", [0, 1])
@pytest.mark.parametrize(
    ("strides", "padding", "groups"), [((1, 1), "SAME", 1), ((2, 2), ((0, 1), (0, 1)), 1), ((1, 2), "VALID", 2)]
)
def test_convolutions_and_their_derivatives(strides, padding, groups, wanted):
    function = functools.partial(convolve, strides, padding, groups)
    x = jax.ShapeDtypeStruct((2, 9, 8, 6), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 6 // groups, 10), jnp.float32)
    out = jax.eval_shape(function, x, kernel)
    assert ours(function, x, kernel) == xlas(function, x, kernel)

    def derivative(x, kernel, slope):
        return jax.vjp(function, x, kernel)[1](slope)[wanted]

    # Where a dilated value meets padding XLA's count is an estimate.
    assert ours(derivative, x, kernel, out) == pytest.approx(xlas(derivative, x, kernel, out), rel=0.02)


def test_products_of_batches():
    a, b = jax.ShapeDtypeStruct((3, 5, 7, 2), jnp.float32), jax.ShapeDtypeStruct((3, 7, 5, 4), jnp.float32)
    function = functools.partial(jnp.einsum, "bqhd,bhqk->bhdk")
    assert ours(function, a, b) == xlas(function, a, b)


def test_loops_count_as_often_as_they_run():
    def looped(x):
        return jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)[0]

    def unrolled(x):
        y = x
        for _ in range(5):
            y = y @ x
        return y

    assert ours(looped, SHAPE) == xlas(unrolled, SHAPE)
    with pytest.raises(Unknown, match="unknown length"):
        ours(lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 0, lambda y: y @ x, x), SHAPE)


@pytest.mark.parametrize(("platform", "products"), [("cpu", 1), ("tpu", 3), ("cuda", 2)])
def test_the_way_of_the_platform_is_counted(platform, products):
    def function(x):
        return jax.lax.platform_dependent(
            x, cpu=lambda x: x @ x, tpu=lambda x: x @ x @ x @ x, default=lambda x: x @ x @ x
        )

    assert ours(function, SHAPE, platform=platform) == products * 2 * 64**3


def test_pallas_kernels_count_once_a_block():
    def kernel(a, b, out):
        out[...] = jnp.dot(a[...], b[...])

    product = pl.pallas_call(
        kernel,
        out_shape=SHAPE,
        grid=(4, 2),
        in_specs=[pl.BlockSpec((16, 64), lambda i, j: (i, 0)), pl.BlockSpec((64, 32), lambda i, j: (0, j))],
        out_specs=pl.BlockSpec((16, 32), lambda i, j: (i, j)),
        interpret=True,
    )
    assert ours(product, SHAPE, SHAPE) == xlas(jnp.matmul, SHAPE, SHAPE)


def test_a_step_is_found_by_its_name():
    def step(x):
        with jax.named_scope("wanted"):
            return x @ x

    def chunk(x, n):
        x = jax.lax.cond(n > 0, lambda x: x @ x @ x, lambda x: x, x)
        return jax.lax.fori_loop(0, n, lambda i, x: jax.lax.cond(i < n, step, lambda x: x, x), x)

    jaxpr = jax.make_jaxpr(jax.jit(chunk))(SHAPE, 3).jaxpr
    assert count_flops(find_scope(jaxpr, "wanted"), "cpu") == 2 * 64**3


def gradient(implementation, query, key):
    """Attention, and its derivatives by all it is given."""

    def total(*arrays):
        return jnp.sum(attention(*arrays, implementation=implementation), dtype=jnp.float32)

    return jax.value_and_grad(total, argnums=(0, 1, 2))(query, key, key)


@pytest.mark.parametrize(("q", "k", "d"), [(512, 512, 128), (256, 78, 160)])
def test_attention_kernels(q, k, d):
    """Our formula against XLA's count of plain attention, whose few operations of the softmax we leave out, and which
    keeps the scores for its backward pass where the kernels compute them again."""
    query, key = (jax.ShapeDtypeStruct((2, length, 4, d), jnp.bfloat16) for length in (q, k))
    forward, backward = (attention_flops(2, 4, q, k, d, backward=side) for side in (False, True))
    plain = functools.partial(attention, implementation="plain")
    assert forward == pytest.approx(xlas(plain, query, key, key), rel=0.05)
    assert forward + backward * 4 / 5 == pytest.approx(xlas(functools.partial(gradient, "plain"), query, key), rel=0.05)
    with planned_for((9, 0)):
        assert ours(functools.partial(gradient, "cudnn"), query, key, platform="cuda") == forward + backward


@pytest.mark.parametrize(("q", "k", "d"), [(1024, 1024, 128), (1024, 2048, 64)])
def test_splash_attention(q, k, d):
    """What the TPU's kernel does, block by block: heads are padded to 128, and each of two backward passes computes
    the scores and their slopes for itself."""
    query, key = (jax.ShapeDtypeStruct((2, length, 3, d), jnp.bfloat16) for length in (q, k))
    product = attention_flops(2, 3, q, k, 128) / 2
    counted = ours(functools.partial(gradient, "flash"), query, key, platform="tpu")
    assert counted == pytest.approx((2 + 7) * product, rel=1e-3)
