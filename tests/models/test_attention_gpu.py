"""cuDNN's attention: chosen where it can be had, and right where there is a GPU."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ti_jax.models import attention_gpu
from ti_jax.models.attention import attention
from ti_jax.parallel.mesh import make_mesh

# Tokens, heads and their size, at the pictures' size that each model was made for.
LEVELS = {
    "sd-1.5": [(4096, 8, 40), (1024, 8, 80), (256, 8, 160), (64, 8, 160)],
    "sd-2.1": [(9216, 5, 64), (2304, 10, 64), (576, 20, 64), (144, 20, 64)],
    "sdxl": [(4096, 10, 64), (1024, 20, 64)],
}
SHAPES = [(q, k, heads, d) for levels in LEVELS.values() for q, heads, d in levels for k in (q, 77)]


@pytest.fixture(autouse=True)
def forget():
    """What one test's card can do is not what the next one's can."""
    yield
    jax.clear_caches()
    attention_gpu._present_card.cache_clear()
    attention_gpu._compiles.cache_clear()


def _gradients(*arrays, implementation=None):
    """The result and its gradients along a slope."""
    out, back = jax.vjp(lambda *x: attention(*x, implementation=implementation), *arrays[:3])
    return out, *back(arrays[3])


def _lowered(tokens, head, dtype, platform="cuda"):
    arrays = [jax.ShapeDtypeStruct((1, tokens, 8, head), dtype)] * 4
    return jax.jit(_gradients).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("card", "tokens", "head", "dtype", "taken"),
    [
        (None, 1024, 80, "bfloat16", False),
        ((7, 5), 1024, 80, "float16", False),
        ((8, 0), 1024, 80, "float16", True),
        ((8, 0), 1024, 80, "bfloat16", True),
        ((8, 0), 1024, 80, "float32", False),
        ((8, 0), 1024, 84, "bfloat16", False),
        ((8, 0), 256, 160, "bfloat16", False),
        ((9, 0), 256, 160, "bfloat16", True),
        ((9, 0), 4096, 512, "bfloat16", False),
        ((9, 0), 64, 160, "bfloat16", False),
    ],
)
def test_choice_by_card_and_shape(card, tokens, head, dtype, taken, monkeypatch):
    monkeypatch.setattr(attention_gpu, "_present_card", lambda: None)  # whatever is here
    with attention_gpu.planned_for(card) if card else contextlib.nullcontext():
        text = _lowered(tokens, head, dtype)
    assert text.count("custom_call @__cudnn$fmhaSoftmax(") == taken
    assert text.count("custom_call @__cudnn$fmhaSoftmaxBackward(") == taken


def test_other_platforms_are_not_asked_for_it():
    with attention_gpu.planned_for((9, 0)):
        assert "__cudnn" not in _lowered(1024, 80, "bfloat16", "cpu")


def _sharded(*arrays):
    """In a sharded loop, as the optimiser's step is."""

    def body(_, x):
        return attention(x, *arrays[1:])

    def loop(x):
        return jax.lax.fori_loop(0, 2, body, x)

    spec = PartitionSpec("concepts")
    return jax.jit(jax.shard_map(loop, mesh=make_mesh(1, 1), in_specs=spec, out_specs=spec, check_vma=False))(arrays[0])


@pytest.mark.parametrize("works", [True, False])
def test_cudnn_that_fails_its_trial_is_not_used(works, monkeypatch):
    """A card that seems fit, with another kernel in cuDNN's place that compiles here or that does not."""
    if not works and jax.default_backend() == "gpu":
        pytest.skip("here it would work")
    tried, here = [], jax.local_devices()

    def in_its_place(query, key, value):
        tried.append(query.shape)
        if works:
            return attention(query, key, value, implementation="plain")
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")

    monkeypatch.setattr(attention_gpu, "cudnn", in_its_place)
    monkeypatch.setattr(attention_gpu, "_present_card", lambda: (9, 0))
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: here)
    arrays = [jnp.ones((2, 256, 1, 8), jnp.bfloat16)] * 3
    assert bool(jnp.all(_sharded(*arrays) == 1))
    assert (1, 256, 1, 8) in tried
    assert ((2, 256, 1, 8) in tried) == works
    assert attention_gpu.takes(*arrays[:2]) == works


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="wants a GPU")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_on_a_gpu_against_plain_in_float32(shape, dtype):
    q, k, heads, d = shape
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [jax.random.normal(key, (1, n, heads, d), dtype) for key, n in zip(keys, (q, k, k, q), strict=True)]
    if not attention_gpu.takes(*arrays[:2]):
        pytest.skip("this card's cuDNN does not take it")
    ours = jax.jit(lambda *x: _gradients(*x, implementation="cudnn"))(*arrays)
    with jax.default_matmul_precision("highest"):
        exact = jax.jit(lambda *x: _gradients(*x, implementation="plain"))(*(x.astype(jnp.float32) for x in arrays))
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == dtype
        # As many roundings as a tree of sums has levels, of values no larger than the largest.
        tolerance = 4 * float(jnp.finfo(dtype).eps) * float(jnp.max(jnp.abs(b)))
        np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0, atol=tolerance)
