"""Attention on TPUs by JAX's splash attention, a Pallas kernel that never writes the scores to memory."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_FEWEST_TOKENS = 1024  # queries, and keys, below which XLA's own program for the whole matrix is as good
_LARGEST_HEAD = 256  # whose blocks fit into the vector memory together
_LANES = 128


def takes(query: Float[Array, "b q heads d"], key: Float[Array, "b k heads d"]) -> bool:
    """Whether the kernel is worth while on a TPU."""
    fewest = min(query.shape[1], key.shape[1])
    return query.dtype == jnp.bfloat16 and fewest >= _FEWEST_TOKENS and query.shape[-1] <= _LARGEST_HEAD


def flash(
    query: Float[Array, "b q heads d"],
    key: Float[Array, "b k heads d"],
    value: Float[Array, "b k heads d"],
    *,
    interpret: bool = False,
) -> Float[Array, "b q heads d"]:
    """Attention in blocks of queries and keys, with a backward pass of its own.

    Args:
        query: of any length and size of head; what the kernel wants whole blocks of is padded.
        key: of any length; keys that are padded are masked.
        value: as many.
        interpret: whether to run without a TPU, slowly.

    Returns:
        the attended values, in the type of the query.
    """
    # Not at the head of the file: who has no TPU need not wait for it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    queries, keys, heads, size = query.shape[1], key.shape[1], query.shape[2], query.shape[3]
    q_block, k_block = _block(queries), _block(keys)
    q_length, k_length, width = _up(queries, q_block), _up(keys, k_block), _up(size, _LANES)
    blocks = kernels.BlockSizes(
        block_q=q_block,
        block_kv=k_block,
        block_q_dkv=q_block,
        block_kv_dkv=k_block,
        block_q_dq=q_block,
        block_kv_dq=k_block,
    )
    everything = masks.MultiHeadMask([masks.FullMask((q_length, k_length))] * heads)
    kernel: Any = kernels.make_splash_mha_single_device(everything, block_sizes=blocks, interpret=interpret)
    segments = None
    if k_length != keys:
        segments = kernels.SegmentIds(jnp.ones(q_length, jnp.int32), (jnp.arange(k_length) < keys).astype(jnp.int32))
    scaled = (query.astype(jnp.float32) / math.sqrt(size)).astype(query.dtype)  # 1 / sqrt(40) is not exact in bfloat16
    arrays = (_laid_out(scaled, q_length, width), *(_laid_out(x, k_length, width) for x in (key, value)))
    attended = jax.vmap(lambda q, k, v: kernel(q, k, v, segment_ids=segments))(*arrays)
    return attended[:, :, :queries, :size].transpose(0, 2, 1, 3)


def _block(length: int) -> int:
    """Rows at a time: large blocks are fast, and so are few that are padded."""
    return min((512, 384, 256), key=lambda rows: _up(length, rows)) if length > 512 else _up(length, _LANES)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _laid_out(x: Array, length: int, width: int) -> Array:
    """Heads before tokens, with zeros up to the length and width."""
    padding = (0, 0), (0, 0), (0, length - x.shape[1]), (0, width - x.shape[3])
    return jnp.pad(x.transpose(0, 2, 1, 3), padding)
