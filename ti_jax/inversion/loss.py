"""The loss that an inversion differentiates, for prompts, latents and noise of the caller's choice."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from ti_jax.concepts.concept import Concept
from ti_jax.conditioning import picture_sizes
from ti_jax.inversion.draws import Examples
from ti_jax.inversion.objective import check_learnable, example_losses
from ti_jax.pipeline import Pipeline

_jitted_losses = jax.jit(example_losses)


def denoising_loss(
    pipeline: Pipeline,
    concept: Concept,
    prompts: Sequence[str],
    *,
    latents: Float32[Array | np.ndarray, "b h w c"],
    noise: Float32[Array | np.ndarray, "b h w c"],
    timesteps: Int[Array | np.ndarray, " b"],
    sizes: Float32[Array | np.ndarray, "b 6"] | None = None,
) -> Float32[Array, " b"]:
    """Mean squared error of the model's prediction, per example; differentiable by `concept`.

    Equation 2 of Gal et al. 2022 (arXiv 2208.01618), with the target that the model's prediction type asks for.
    It does not compile again for another concept or other prompts of the same shape.

    Args:
        pipeline: the frozen model.
        concept: whose placeholder the prompts hold.
        prompts: one an example; tokenised here, on the host.
        latents: of the pictures, already multiplied by the VAE's scaling factor.
        noise: standard normal.
        timesteps: in [0, number of training timesteps).
        sizes: for SDXL: height and width of the original pictures, top and left of the crop, height and width now; None
            for pictures that are as large as the latents and not cropped.

    Returns:
        the raw loss of each example, unweighted.

    Raises:
        UserError: if a prompt is too long for the text encoder, or the model is for inpainting.
    """
    check_learnable(pipeline)
    tokens = pipeline.tokenize(prompts, {concept.placeholder: concept.num_vectors}, overflow="error")
    if sizes is None:
        own = picture_sizes(latents.shape[1] * pipeline.factor, latents.shape[2] * pipeline.factor)
        sizes = np.broadcast_to(own, (len(prompts), 6))
    examples = Examples(
        jnp.asarray(latents), jnp.asarray(noise), jnp.asarray(timesteps, jnp.int32), tokens, jnp.asarray(sizes)
    )
    return _jitted_losses(pipeline.networks, pipeline.schedule, concept.vectors, examples)
