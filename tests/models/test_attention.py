"""Attention in all its ways against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_pair import draws

from ti_jax.models import attention as module
from ti_jax.models.attention import attention

SHAPES = {
    "self": (2, 70, 70, 3, 8),
    "cross": (1, 45, 7, 2, 16),
    "one block": (1, 32, 5, 1, 4),
    "one query": (2, 1, 9, 2, 4),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that there are several, the last of them not full."""
    monkeypatch.setattr(module, "BLOCK", 32)


def _both(implementation, arrays, mask=None):
    """Output and gradients of a weighted sum of it, ours and PyTorch's."""
    weights = draws(*arrays[0].shape, seed=9)

    def loss(q, k, v):
        if implementation == "blocked, as accelerators do":
            out = module._blocked(q, k, v, over_heads=module._at_once)
        else:
            out = attention(q, k, v, mask=mask, implementation=implementation)
        return jnp.sum(out * weights), out

    gradients, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    tensors = [torch.tensor(array).transpose(1, 2).requires_grad_() for array in arrays]
    torch_mask = None if mask is None else torch.tensor(np.asarray(mask))
    expected = torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=torch_mask)
    (expected * torch.tensor(weights).transpose(1, 2)).sum().backward()
    theirs = [expected.detach(), *(tensor.grad for tensor in tensors)]
    return [out, *gradients], [tensor.transpose(1, 2).numpy() for tensor in theirs]


@pytest.mark.parametrize("implementation", ["plain", "blocked", "blocked, as accelerators do"])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients(shape, implementation):
    b, q, k, heads, d = SHAPES[shape]
    arrays = draws(b, q, heads, d), 2 * draws(b, k, heads, d, seed=1), draws(b, k, heads, d, seed=2)
    for ours, theirs in zip(*_both(implementation, arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_mask():
    arrays = [draws(2, 12, 2, 4, seed=i) for i in range(3)]
    for ours, theirs in zip(*_both(None, arrays, jnp.tril(jnp.ones((12, 12), bool))), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("implementation", ["plain", "blocked"])
def test_half_precision(implementation, dtype):
    """Scores far beyond the range of float16 are no trouble: they are float32."""
    query, key, value = (draws(1, 40, 2, 8, seed=i) * scale for i, scale in enumerate((200, 200, 1)))
    small = [jnp.asarray(x, dtype) for x in (query, key, value)]
    out = attention(*small, implementation=implementation)
    assert out.dtype == dtype
    exact = attention(*(x.astype(jnp.float32) for x in small), implementation="plain")
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=0, atol=2 * float(jnp.finfo(dtype).eps) * 3)


def test_no_matrix_of_all_scores_in_blocks():
    """The largest array of the backward pass is a block's scores, or the inputs."""
    arrays = [draws(1, 200, 2, 8, seed=i) for i in range(3)]

    def total(*arrays):
        return jnp.sum(attention(*arrays, implementation="blocked"))

    shapes = str(jax.make_jaxpr(jax.grad(total, argnums=(0, 1, 2)))(*arrays))
    assert "200,200" not in shapes
    assert "32,200" in shapes


def test_blocks_are_alike():
    """40 queries are two blocks of 24, not two of 32, and 16 are one of 16."""
    for tokens, block in ((40, 24), (16, 16)):
        arrays = [draws(1, tokens, 2, 8, seed=i) for i in range(3)]
        shapes = str(jax.make_jaxpr(lambda *arrays: attention(*arrays, implementation="blocked"))(*arrays))
        assert f"{block},{tokens}]" in shapes
        assert f"32,{tokens}]" not in shapes


@pytest.mark.parametrize(
    ("tokens", "platform", "heads_apart", "largest"),
    [
        (64, "cpu", False, "1x2x64x64"),
        (300, "cpu", True, "32x300"),
        (300, "tpu", False, "1x2x300x300"),
        (300, "cuda", False, "1x2x300x300"),
        (1100, "cpu", True, "32x1100"),
        (1100, "tpu", False, "2x32x1100"),
    ],
)
def test_choice(tokens, platform, heads_apart, largest):
    """By shape and by the platform that is compiled for, not the one that compiles."""
    arrays = [jax.ShapeDtypeStruct((1, tokens, 2, 8), jnp.float32)] * 3
    text = jax.jit(attention).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
    assert f"tensor<{largest}xf32>" in text
    assert (f"tensor<1x2x{tokens}x{tokens}xf32>" in text) == (largest == f"1x2x{tokens}x{tokens}")
    assert (text.count("stablehlo.while") == 2) == heads_apart
