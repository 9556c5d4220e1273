"""Scaled dot-product attention: one entry point, several ways to compute it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Implementation = Literal["plain", "blocked"]

BLOCK = 256  # queries; on a CPU the scores of a block stay in cache
_SMALLEST_BLOCKED = BLOCK * BLOCK  # scores of one head from which blocks are quicker on a CPU
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
            a time, on a CPU those of one head, and computes them again in the backward pass. None: by shape and by
            the platform that is compiled for.

    Returns:
        the attended values, in the type of the query.
    """
    scores = query.shape[1] * key.shape[1]
    if implementation == "plain" or mask is not None or (implementation is None and scores < _SMALLEST_BLOCKED):
        return _plain(query, key, value, mask)
    plain_elsewhere = implementation is None and scores <= _LARGEST_PLAIN
    one_after_the_other = functools.partial(_blocked, over_heads=jax.lax.map)
    elsewhere = _plain if plain_elsewhere else functools.partial(_blocked, over_heads=_at_once)
    return jax.lax.platform_dependent(query, key, value, cpu=one_after_the_other, default=elsewhere)


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
    padded = jnp.pad(query, ((0, 0), (0, blocks * BLOCK - q), (0, 0), (0, 0)))
    queries, keys, values = (x.transpose(0, 2, 1, 3).reshape(b * heads, -1, d) for x in (padded, key, value))
    attended = over_heads(_one_head, (queries.reshape(b * heads, blocks, BLOCK, d), keys, values))
    return attended.reshape(b, heads, blocks * BLOCK, d)[:, :, :q].transpose(0, 2, 1, 3)


def _one_head(arrays: tuple[Array, Array, Array]) -> Array:
    """Blocks of queries [blocks, BLOCK, d] to keys and values [k, d]."""
    queries, keys, values = arrays

    @jax.checkpoint
    def one_block(block: Array) -> Array:
        scores = jnp.einsum("qd,kd->qk", block, keys, preferred_element_type=jnp.float32) / math.sqrt(block.shape[-1])
        return jax.nn.softmax(scores, axis=-1).astype(values.dtype) @ values

    return jax.lax.map(one_block, queries)


def _at_once(function: Callable[..., Array], arrays: tuple[Array, ...]) -> Array:
    return jax.vmap(function)(arrays)
