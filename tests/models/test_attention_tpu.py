"""Splash attention: right when it is interpreted, chosen for TPUs, and lowered there with its backward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_pair import draws

from ti_jax.models import attention_tpu
from ti_jax.models.attention import attention

# Batch, queries, keys, heads and their size, which is that of SD 1.5, 2.1 or XL; whole blocks and padded ones.
SHAPES = [
    (1, 256, 256, 2, 40),
    (2, 128, 77, 1, 40),
    (1, 600, 700, 1, 64),
    (1, 200, 77, 2, 80),
    (1, 130, 130, 1, 160),
]


def _gradients(query, key, value, slope, **options):
    """The result and its gradients along a slope."""
    out, back = jax.vjp(lambda *arrays: attention_tpu.flash(*arrays, **options), query, key, value)
    return out, *back(slope)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_pytorch(shape):
    b, q, k, heads, d = shape
    arrays = draws(b, q, heads, d), 2 * draws(b, k, heads, d, seed=1), draws(b, k, heads, d, seed=2)
    slope = draws(b, q, heads, d, seed=3)
    ours = jax.jit(lambda *x: _gradients(*x, interpret=True))(*arrays, slope)
    tensors = [torch.tensor(array).transpose(1, 2).requires_grad_() for array in arrays]
    expected = torch.nn.functional.scaled_dot_product_attention(*tensors)
    expected.backward(torch.tensor(slope).transpose(1, 2))
    for mine, theirs in zip(ours, [expected.detach(), *(tensor.grad for tensor in tensors)], strict=True):
        theirs = theirs.transpose(1, 2).numpy()
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_bfloat16_is_no_worse_than_plain():
    arrays = [jnp.asarray(draws(1, 256, 2, 40, seed=i), jnp.bfloat16) for i in range(3)]
    exact = attention(*(x.astype(jnp.float32) for x in arrays), implementation="plain")
    errors = {
        "flash": attention_tpu.flash(*arrays, interpret=True).astype(jnp.float32) - exact,
        "plain": attention(*arrays, implementation="plain").astype(jnp.float32) - exact,
    }
    spread = {name: float(jnp.sqrt(jnp.mean(jnp.square(error)))) for name, error in errors.items()}
    assert spread["flash"] <= 1.2 * spread["plain"]


@pytest.mark.parametrize(
    ("platform", "queries", "keys", "heads", "head", "dtype", "taken"),
    [
        ("tpu", 4096, 4096, 8, 40, "bfloat16", True),
        ("tpu", 1024, 1024, 8, 80, "bfloat16", True),
        ("tpu", 1024, 1024, 8, 160, "bfloat16", True),
        ("tpu", 2304, 2304, 10, 64, "bfloat16", True),
        ("tpu", 1600, 1600, 5, 64, "bfloat16", True),
        ("tpu", 4096, 77, 8, 40, "bfloat16", False),
        ("tpu", 576, 576, 20, 64, "bfloat16", False),
        ("tpu", 4096, 4096, 1, 512, "bfloat16", False),
        ("tpu", 4096, 4096, 8, 40, "float32", False),
        ("cpu", 4096, 4096, 8, 40, "bfloat16", False),
        ("cuda", 4096, 4096, 8, 40, "bfloat16", False),
    ],
)
def test_choice(platform, queries, keys, heads, head, dtype, taken):
    """By the platform that is compiled for; forward is one kernel, backward two."""
    arrays = [jax.ShapeDtypeStruct((2, n, heads, head), dtype) for n in (queries, keys, keys, queries)]

    def gradients(query, key, value, slope):
        out, back = jax.vjp(attention, query, key, value)
        return out, *back(slope)

    exported = jax.jit(gradients).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert exported.count("custom_call @tpu_custom_call") == 3 * taken
