"""Scaled dot-product attention: one entry point, several ways to compute it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ti_jax.models import attention_gpu, attention_tpu
from ti_jax.models.products import einsum

Implementation = Literal["plain", "blocked", "cudnn", "flash"]

BLOCK = 512  # queries at most; on a CPU the scores of a block stay in cache
_SMALLEST_BLOCKED = 256 * 256  # scores of one head from which blocks are quicker on a CPU
_LARGEST_PLAIN = 1024 * 1024  # scores of one head above which the matrix of them is too large to keep anywhere


def attention(
    query: Float[Array, "b q heads d"],
    key: Float[Array, "b k heads d"],
    value: Float[Array, "b k heads d"],
    *,
    mask: Bool[Array, "q k"] | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "b q heads d"]:
    """softmax(query key^T / sqrt(d)) value, with scores and softmax in float32.

    Args:
        query: of any float type.
        key: of the same type.
        value: of the same type.
        mask: True where a query may look; all of it if None. Only the plain way takes one.
        implementation: plain keeps the whole matrix of scores; blocked never has more than `BLOCK` queries' scores at
            a time, on a CPU those of one head, and computes them again in the backward pass; cudnn is for NVIDIA GPUs,
            flash for TPUs. None: by shape and type and by the platform that is compiled for.

    Returns:
        the attended values, in the type of the query.
    """
    scores = query.shape[1] * key.shape[1]
    if implementation == "plain" or mask is not None or (implementation is None and scores < _SMALLEST_BLOCKED):
        return _plain(query, key, value, mask)
    if implementation == "cudnn":
        return attention_gpu.cudnn(query, key, value)
    if implementation == "flash":
        return attention_tpu.flash(query, key, value)
    plain_elsewhere = implementation is None and scores <= _LARGEST_PLAIN
    one_after_the_other = functools.partial(_blocked, over_heads=jax.lax.map)
    elsewhere = _plain if plain_elsewhere else functools.partial(_blocked, over_heads=_at_once)
    ways: dict[str, Callable[..., Array]] = {"cpu": one_after_the_other}
    if implementation is None and attention_gpu.takes(query, key):
        ways["cuda"] = attention_gpu.cudnn
    if implementation is None and attention_tpu.takes(query, key):
        ways["tpu"] = attention_tpu.flash
    return jax.lax.platform_dependent(query, key, value, **ways, default=elsewhere)


def _plain(query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
    scale = 1.0 / math.sqrt(query.shape[-1])
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * scale
    if mask is not None:
        scores = jnp.where(mask[None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _blocked(query: Array, key: Array, value: Array, *, over_heads: Callable[..., Array]) -> Array:
    """One block of queries after the other, for the heads of all examples as `over_heads` takes them."""
    b, q, heads, d = query.shape
    blocks = -(-q // BLOCK)
    block = 8 * -(-q // (8 * blocks))  # all alike, and with as little padding as that takes
    # Scaled once here, and not in every block's scores.
    query = (query.astype(jnp.float32) / math.sqrt(d)).astype(query.dtype)
    padded = jnp.pad(query, ((0, 0), (0, blocks * block - q), (0, 0), (0, 0)))
    queries, keys, values = (x.transpose(0, 2, 1, 3).reshape(b * heads, -1, d) for x in (padded, key, value))
    attended = over_heads(lambda head: _one_head(*head), (queries.reshape(b * heads, blocks, block, d), keys, values))
    return attended.reshape(b, heads, blocks * block, d)[:, :, :q].transpose(0, 2, 1, 3)


@jax.custom_vjp
def _one_head(queries: Float[Array, "blocks q d"], keys: Float[Array, "k d"], values: Float[Array, "k d"]) -> Array:
    """Scaled queries of a head in blocks; the backward pass is FlashAttention's (Dao et al. 2022, arXiv 2205.14135)."""
    return _forward(queries, keys, values)[0]


class _Saved(NamedTuple):
    """What the backward pass starts from."""

    queries: Array
    keys: Array
    values: Array
    attended: Array
    log_totals: Array
    """Logarithm of each query's sum of exponentials."""


def _forward(queries: Array, keys: Array, values: Array) -> tuple[Array, _Saved]:
    def one_block(query: Array) -> tuple[Array, Array]:
        scores = einsum("qd,kd->qk", query, keys)
        largest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        attended = einsum("qk,kd->qd", weights.astype(values.dtype), values) / total
        return attended.astype(values.dtype), largest + jnp.log(total)

    attended, log_totals = jax.lax.map(one_block, queries)
    return attended, _Saved(queries, keys, values, attended, log_totals)


def _backward(saved: _Saved, slope: Array) -> tuple[Array, Array, Array]:
    keys, values = saved.keys, saved.values

    def one_block(sums: tuple[Array, Array], block: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        query, attended, log_total, slope = block
        weights = jnp.exp(einsum("qd,kd->qk", query, keys) - log_total)
        along = jnp.sum(slope.astype(jnp.float32) * attended.astype(jnp.float32), axis=-1, keepdims=True)
        by_score = (weights * (einsum("qd,kd->qk", slope, values) - along)).astype(query.dtype)
        # Sums with the keys last: XLA's product for the CPU is four times slower with them first.
        of_keys = sums[0] + einsum("qk,qd->dk", by_score, query)
        of_values = sums[1] + einsum("qk,qd->dk", weights.astype(values.dtype), slope)
        return (of_keys, of_values), einsum("qk,kd->qd", by_score, keys).astype(keys.dtype)

    zeros = jnp.zeros(keys.shape[::-1], jnp.float32)
    blocks = saved.queries, saved.attended, saved.log_totals, slope
    (of_keys, of_values), of_queries = jax.lax.scan(one_block, (zeros, zeros), blocks)
    return of_queries, of_keys.T.astype(keys.dtype), of_values.T.astype(values.dtype)


_one_head.defvjp(_forward, _backward)


def _at_once(function: Callable[..., Array], arrays: tuple[Array, ...]) -> Array:
    return jax.vmap(function)(arrays)
