"""From noise to latents: one loop for every sampler."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Key

from ti_jax.diffusion.plan import Plan, Step

Denoise = Callable[[Float32[Array, "b h w c"], Float32[Array, ""]], Float[Array, "b h w c"]]


def sample(
    denoise: Denoise, noise: Float32[Array, "b h w c"], plan: Plan, keys: Key[Array, " b"]
) -> Float32[Array, "b h w c"]:
    """Runs a sampler from start to end.

    Args:
        denoise: the network's output for latents at a timestep, guidance included.
        noise: standard normal, from which the pictures emerge.
        plan: of the sampler.
        keys: one a picture, so that a picture does not depend on its batch; for samplers that add noise.

    Returns:
        latents without noise.
    """

    def body(carry: tuple[Array, Array], row: tuple[Array, Step]) -> tuple[tuple[Array, Array], None]:
        latents, previous = carry
        index, step = row
        output = denoise(latents, step.timestep).astype(jnp.float32)
        fresh = _fresh_noise(keys, index, latents.shape[1:]) if plan.stochastic else jnp.zeros_like(latents)
        return advance(plan, step, latents, previous, output, fresh), None

    latents = noise * plan.initial_scale
    rows = (jnp.arange(plan.steps.timestep.shape[0]), plan.steps)
    return jax.lax.scan(body, (latents, jnp.zeros_like(latents)), rows)[0][0]


def advance(
    plan: Plan,
    step: Step,
    latents: Float32[Array, "b h w c"],
    previous: Float32[Array, "b h w c"],
    output: Float32[Array, "b h w c"],
    fresh: Float32[Array, "b h w c"],
) -> tuple[Float32[Array, "b h w c"], Float32[Array, "b h w c"]]:
    """One step of a sampler.

    Args:
        plan: the run it belongs to.
        step: which, without the axis of steps.
        latents: as the network saw them.
        previous: picture that was predicted one step before; of no effect in the first.
        output: of the network.
        fresh: standard normal noise.

    Returns:
        the next latents, and the picture predicted from these.
    """
    if plan.prediction_type == "epsilon":
        predicted = (latents - step.deviation * output) / step.signal
    elif plan.prediction_type == "sample":
        predicted = output
    else:
        predicted = step.signal * latents - step.deviation * output
    clipped = predicted if plan.clip_range is None else jnp.clip(predicted, -plan.clip_range, plan.clip_range)
    following = (
        step.from_latents * latents
        + step.from_prediction * predicted
        + step.from_clipped * clipped
        + step.from_previous * previous
        + step.from_noise * fresh
    )
    return following, predicted


def _fresh_noise(keys: Key[Array, " b"], index: Array, shape: tuple[int, ...]) -> Float32[Array, "b h w c"]:
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32))(keys)
