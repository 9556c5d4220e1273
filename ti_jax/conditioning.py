"""Prompts and vectors to what the UNet is conditioned on: the one path that training and generation share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from ti_jax.concepts.chunks import ChunkedPrompts
from ti_jax.concepts.prompts import TokenizedPrompts
from ti_jax.concepts.splice import splice
from ti_jax.models.unet_blocks import Remat


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
    weights: Mapping[str, Float32[Array, "b length"]] | None = None,
) -> Conditions:
    """What the text encoders make of prompts that may hold learned vectors.

    With one encoder its last hidden states are the context. With two, as SDXL has, it is both encoders' states before
    the last layer, without the final norm, side by side (Podell et al. 2023, arXiv 2307.01952, section 2.1).

    Args:
        networks: frozen modules by name.
        prompts: by encoder; ids int32[b, length].
        vectors: by encoder; one set for all prompts, or one a prompt. The loss is differentiated by these alone.
        weights: by encoder, of each token; see `emphasize`.

    Returns:
        the conditions, in the encoders' compute dtype.
    """
    outputs = {}
    for name, tokens in prompts.items():
        embeddings = splice(networks[name].embed(tokens.ids), vectors[name], tokens.vector_index)
        outputs[name] = networks[name](embeddings, tokens.pool_index)
    single = "text_encoder_2" not in outputs
    states = {
        name: output.last_hidden_state if single else output.penultimate_hidden_state
        for name, output in outputs.items()
    }
    if weights is not None:
        states = {name: emphasize(state, weights[name]) for name, state in states.items()}
    if single:
        return Conditions(states["text_encoder"], None)
    context = jnp.concatenate([states["text_encoder"], states["text_encoder_2"]], axis=-1)
    return Conditions(context, outputs["text_encoder_2"].pooled)


def emphasize(
    states: Float[Array, "b length width"], weights: Float32[Array, "b length"]
) -> Float[Array, "b length width"]:
    """An encoder's output times the weights of its tokens, scaled back to the mean that it had.

    Args:
        states: of a chunk of each prompt.
        weights: 1 for no emphasis.

    Returns:
        what cross-attention looks at instead. Source: AUTOMATIC1111/stable-diffusion-webui, modules/sd_emphasis.py,
        `EmphasisOriginal`; there the mean is over all prompts of a batch, here of each.
    """
    before = states.astype(jnp.float32)
    after = before * weights[:, :, None]
    scale = before.mean(axis=(1, 2), keepdims=True) / after.mean(axis=(1, 2), keepdims=True)
    return (after * scale).astype(states.dtype)


def encode_chunks(
    networks: Mapping[str, Any],
    prompts: Mapping[str, ChunkedPrompts],
    vectors: Mapping[str, Float32[Array, "n width"]],
) -> Conditions:
    """What the text encoders make of prompts in chunks, which they see one by one.

    Args:
        networks: frozen modules by name.
        prompts: by encoder; ids int32[b, chunks, length].
        vectors: by encoder.

    Returns:
        the conditions: the chunks' contexts one after another, and the first chunk's pooled output.
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), dict(prompts))
    weights = {name: chunked.weights for name, chunked in flat.items() if chunked.weights is not None}
    tokens = {name: chunked.tokens for name, chunked in flat.items()}
    context, pooled = encode_prompts(networks, tokens, vectors, weights or None)
    batch, chunks, length = prompts["text_encoder"].tokens.ids.shape
    return Conditions(
        context.reshape(batch, chunks * length, -1), None if pooled is None else pooled.reshape(batch, chunks, -1)[:, 0]
    )


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
    *,
    remat: Remat = "none",
) -> Float32[Array, "b h w c2"]:
    """The UNet's output.

    Args:
        unet: the frozen module.
        latents: noisy.
        timesteps: in [0, number of training timesteps).
        conditions: from `encode_prompts`.
        sizes: as `picture_sizes`; of effect for SDXL only.
        remat: what the backward pass computes again.

    Returns:
        noise, velocity or sample, as the model predicts.
    """
    added = None if conditions.pooled is None else {"text_embeds": conditions.pooled, "time_ids": sizes}
    return unet(latents, timesteps, conditions.context, added, remat=remat).astype(jnp.float32)
