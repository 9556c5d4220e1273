"""Learned vectors in the place of token embeddings."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32


def splice(
    embeddings: Float[Array, "b length width"],
    vectors: Float32[Array, "*b n width"],
    vector_index: Int32[Array, "b length"],
) -> Float32[Array, "b length width"]:
    """Token embeddings with the vectors put where prompts hold their placeholder.

    Args:
        embeddings: rows of the frozen table.
        vectors: one set for all prompts, or one a prompt; the result is differentiable by them.
        vector_index: which vector stands at a position; -1 for the vocabulary.

    Returns:
        the embeddings in float32, so that vectors keep their precision up to the encoder.
    """
    index = jnp.maximum(vector_index, 0)
    shared = vectors.ndim == 2
    chosen = vectors[index] if shared else jnp.take_along_axis(vectors, index[:, :, None], axis=1)
    return jnp.where(vector_index[:, :, None] >= 0, chosen, embeddings.astype(jnp.float32))
