"""Prompts and vectors to what the UNet is conditioned on: the one path that training and generation share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from ti_jax.concepts.prompts import TokenizedPrompts
from ti_jax.concepts.splice import splice


class Conditions(NamedTuple):
    """What a UNet is told about the prompts; a pytree."""

    context: Float[Array, "b length features"]
    """What cross-attention looks at."""
    pooled: Float[Array, "b width"] | None
    """The pooled output of the second text encoder, which only SDXL takes."""


def encode_prompts(
    networks: Mapping[str, Any],
    prompts: Mapping[str, TokenizedPrompts],
    vectors: Mapping[str, Float32[Array, "*b n width"]],
) -> Conditions:
    """What the text encoders make of prompts that may hold learned vectors.

    With one encoder its last hidden states are the context. With two, as SDXL has, it is both encoders' states before
    the last layer, without the final norm, side by side (Podell et al. 2023, arXiv 2307.01952, section 2.1).

    Args:
        networks: frozen modules by name.
        prompts: by encoder; ids int32[b, length].
        vectors: by encoder; one set for all prompts, or one a prompt. The loss is differentiated by these alone.

    Returns:
        the conditions, in the encoders' compute dtype.
    """
    outputs = {}
    for name, tokens in prompts.items():
        embeddings = splice(networks[name].embed(tokens.ids), vectors[name], tokens.vector_index)
        outputs[name] = networks[name](embeddings, tokens.pool_index)
    if "text_encoder_2" not in outputs:
        return Conditions(outputs["text_encoder"].last_hidden_state, None)
    states = [outputs[name].penultimate_hidden_state for name in ("text_encoder", "text_encoder_2")]
    return Conditions(jnp.concatenate(states, axis=-1), outputs["text_encoder_2"].pooled)


def picture_sizes(height: int, width: int) -> Float32[np.ndarray, " 6"]:
    """What SDXL is told of a picture that was made at its own size and not cropped.

    Args:
        height: in pixels.
        width: in pixels.

    Returns:
        height and width before any resizing, top and left of the crop, height and width now.
    """
    return np.asarray([height, width, 0, 0, height, width], np.float32)


def predict(
    unet: Any,
    latents: Float[Array, "b h w c"],
    timesteps: Shaped[Array, " b"],
    conditions: Conditions,
    sizes: Float32[Array, "b 6"],
) -> Float32[Array, "b h w c2"]:
    """The UNet's output.

    Args:
        unet: the frozen module.
        latents: noisy.
        timesteps: in [0, number of training timesteps).
        conditions: from `encode_prompts`.
        sizes: as `picture_sizes`; of effect for SDXL only.

    Returns:
        noise, velocity or sample, as the model predicts.
    """
    added = None if conditions.pooled is None else {"text_embeds": conditions.pooled, "time_ids": sizes}
    return unet(latents, timesteps, conditions.context, added).astype(jnp.float32)
