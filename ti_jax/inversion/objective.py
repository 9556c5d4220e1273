"""The loss of Textual Inversion: equation 2 of Gal et al. 2022 (arXiv 2208.01618), per example."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from ti_jax.conditioning import encode_prompts, predict
from ti_jax.diffusion.schedule import NoiseSchedule, add_noise, target
from ti_jax.errors import UserError
from ti_jax.inversion.draws import Examples
from ti_jax.models.unet_blocks import Remat
from ti_jax.pipeline import Pipeline


def check_learnable(pipeline: Pipeline) -> None:
    """Raises UserError for a model that only draws."""
    if pipeline.inpaints:
        raise UserError(
            f"{pipeline.source} is an inpainting model: learn the word with the model it was made from, which has the "
            "same text encoder, and draw with this one"
        )


def example_losses(
    networks: Mapping[str, Any],
    schedule: NoiseSchedule,
    vectors: Mapping[str, Float32[Array, "*batch n width"]],
    examples: Examples,
    *,
    remat: Remat = "none",
) -> Float32[Array, " b"]:
    """Mean squared error of each example, unweighted.

    Args:
        networks: frozen modules by name.
        schedule: of the noise; its prediction type says what the network is asked for.
        vectors: by encoder, one set for all examples or one an example.
        examples: a flat batch.
        remat: what the backward pass computes again.

    Returns:
        the mean over height, width and channels of the squared difference to the target, in float32.
    """
    conditions = encode_prompts(networks, examples.prompts, vectors)
    noisy = add_noise(schedule, examples.latents, examples.noise, examples.timesteps)
    wanted = target(schedule, examples.latents, examples.noise, examples.timesteps)
    predicted = predict(networks["unet"], noisy, examples.timesteps, conditions, examples.sizes, remat=remat)
    return jnp.mean(jnp.square(predicted - wanted), axis=(1, 2, 3))


def loss_scale(unet: Any, latents: Sequence[int]) -> float:
    """What a loss is multiplied by before it is differentiated, and its gradient divided by in float32.

    The slope of a mean over a picture is as small as the picture is large, and float16 has nothing between 6e-8 and
    zero: there the slope of the sum is taken instead (static loss scaling: Micikevicius et al. 2018, arXiv 1710.03740).

    Args:
        unet: the frozen module.
        latents: height, width and channels.

    Returns:
        a power of two, by which nothing is rounded; 1 for all types with float32's range.
    """
    if unet.dtype != jnp.float16:
        return 1.0
    return 2.0 ** round(math.log2(math.prod(latents)))


def slot_losses(
    networks: Mapping[str, Any],
    schedule: NoiseSchedule,
    vectors: Mapping[str, Float32[Array, "slots n width"]],
    examples: Examples,
    *,
    remat: Remat = "none",
) -> Float32[Array, "slots batch"]:
    """`example_losses` of many concepts as one flat batch.

    Args:
        networks: frozen modules by name.
        schedule: of the noise.
        vectors: by encoder, one set a slot.
        examples: with leading axes [slots, batch].
        remat: what the backward pass computes again.

    Returns:
        the loss of each example of each slot.
    """
    slots, batch = examples.timesteps.shape
    flat = jax.tree.map(lambda x: x.reshape(slots * batch, *x.shape[2:]), examples)
    owners = {name: jnp.repeat(v, batch, axis=0) for name, v in vectors.items()}
    return example_losses(networks, schedule, owners, flat, remat=remat).reshape(slots, batch)
