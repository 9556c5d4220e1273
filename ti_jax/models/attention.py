"""Scaled dot-product attention: one entry point, several ways to compute it."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Implementation = Literal["plain", "blocked"]

BLOCK = 256  # queries; a block's scores stay in cache
_LARGEST_PLAIN = 1024 * 1024  # scores of one head above which the softmax matrix is not kept


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
        implementation: plain keeps the whole matrix of scores; blocked never has more than `BLOCK` queries' scores
            of one head and computes them again in the backward pass. None: by shape.

    Returns:
        the attended values, in the type of the query.
    """
    if implementation is None:
        large = query.shape[1] * key.shape[1] > _LARGEST_PLAIN
        implementation = "blocked" if large and mask is None else "plain"
    if implementation == "plain":
        return _plain(query, key, value, mask)
    return _blocked(query, key, value)


def _plain(query: Array, key: Array, value: Array, mask: Array | None) -> Array:
    scale = 1.0 / math.sqrt(query.shape[-1])
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32) * scale
    if mask is not None:
        scores = jnp.where(mask[None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _blocked(query: Array, key: Array, value: Array) -> Array:
    b, q, heads, d = query.shape
    blocks = -(-q // BLOCK)
    padded = jnp.pad(query, ((0, 0), (0, blocks * BLOCK - q), (0, 0), (0, 0)))
    # One head of one example at a time, then one block of queries.
    queries = padded.transpose(0, 2, 1, 3).reshape(b * heads, blocks, BLOCK, d)
    keys, values = (x.transpose(0, 2, 1, 3).reshape(b * heads, -1, d) for x in (key, value))

    def one_head(arguments: tuple[Array, Array, Array]) -> Array:
        head_queries, head_keys, head_values = arguments

        @jax.checkpoint
        def one_block(block: Array) -> Array:
            scores = jnp.einsum("qd,kd->qk", block, head_keys, preferred_element_type=jnp.float32) / math.sqrt(d)
            return jax.nn.softmax(scores, axis=-1).astype(head_values.dtype) @ head_values

        return jax.lax.map(one_block, head_queries)

    attended = jax.lax.map(one_head, (queries, keys, values))
    return attended.reshape(b, heads, blocks * BLOCK, d)[:, :, :q].transpose(0, 2, 1, 3)
