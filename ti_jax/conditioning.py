"""Prompts and vectors to what the UNet attends to: the one path that training and generation share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float, Float32

from ti_jax.concepts.prompts import TokenizedPrompts
from ti_jax.concepts.splice import splice


def encode_prompts(
    networks: Mapping[str, Any],
    prompts: Mapping[str, TokenizedPrompts],
    vectors: Mapping[str, Float32[Array, "*b n width"]],
) -> Float[Array, "b length features"]:
    """The text encoder's last hidden states of prompts that may hold learned vectors.

    Args:
        networks: frozen modules by name.
        prompts: by encoder; ids int32[b, length].
        vectors: by encoder; one set for all prompts, or one a prompt. The loss is differentiated by these alone.

    Returns:
        the context of the UNet's cross-attention, in the encoder's compute dtype.
    """
    encoder, tokens = networks["text_encoder"], prompts["text_encoder"]
    embeddings = splice(encoder.embed(tokens.ids), vectors["text_encoder"], tokens.vector_index)
    return encoder(embeddings, tokens.pool_index).last_hidden_state
