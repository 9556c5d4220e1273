"""The update of a concept's vectors: optax's AdamW, with a rate that each slot schedules for itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float32, Int32

from ti_jax.config import OptimizerConfig


def gradient_transformation(config: OptimizerConfig) -> optax.GradientTransformation:
    """AdamW without its rate, since optax's schedules refuse a number of steps that is traced.

    Args:
        config: the optimiser's settings.

    Returns:
        a transformation of one concept's gradients; subtract the rate times its result from the vectors.
    """
    clip = optax.identity() if config.max_grad_norm is None else optax.clip_by_global_norm(config.max_grad_norm)
    return optax.chain(
        clip,
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay),
    )


def scheduled_rate(
    config: OptimizerConfig,
    peak: Float32[Array, "*slots"],
    step: Int32[Array, "*slots"],
    total_steps: Int32[Array, "*slots"],
) -> Float32[Array, "*slots"]:
    """The rate of a step, by the formulas of diffusers' `optimization.py`.

    Args:
        config: `schedule` and `warmup_steps` are read.
        peak: the rate after the warm-up.
        step: steps taken so far.
        total_steps: steps in all.

    Returns:
        `peak` times a factor in [0, 1]: step / warmup_steps during the warm-up; then 1, or falling to 0 at
        `total_steps` linearly or along half a cosine.
    """
    warmup = config.warmup_steps
    taken, total = step.astype(jnp.float32), total_steps.astype(jnp.float32)
    fraction = jnp.clip((taken - warmup) / jnp.maximum(total - warmup, 1.0), 0.0, 1.0)
    match config.schedule:
        case "constant":
            factor = jnp.ones_like(fraction)
        case "linear":
            factor = 1.0 - fraction
        case "cosine":
            factor = 0.5 * (1.0 + jnp.cos(jnp.pi * fraction))
    return peak * jnp.where(taken < warmup, taken / max(warmup, 1), factor)


def rescale_norms(
    vectors: Float32[Array, "*slots n width"], mask: Bool[Array, "*slots n"], norm: Float32[Array, ""]
) -> Float32[Array, "*slots n width"]:
    """Vectors with their directions kept and their norms set.

    Args:
        vectors: padded with zeros.
        mask: False where a vector is padding, which stays zero.
        norm: the norm that every vector gets.

    Returns:
        vectors of the same shape.
    """
    lengths = vector_norms(vectors)
    scale = jnp.where(mask & (lengths > 0), norm / jnp.where(lengths > 0, lengths, 1.0), 0.0)
    return vectors * scale[..., None]


def vector_norms(vectors: Float32[Array, "*slots n width"]) -> Float32[Array, "*slots n"]:
    """Euclidean norm of each vector."""
    return jnp.sqrt(jnp.sum(jnp.square(vectors), axis=-1))


def optimizer_update(
    transformation: optax.GradientTransformation,
    gradients: dict[str, Array],
    state: optax.OptState,
    vectors: dict[str, Array],
    rate: Float32[Array, " slots"],
) -> tuple[dict[str, Array], optax.OptState]:
    """One update of every slot, each as if it were alone (its own clipping, moments and count).

    Args:
        transformation: from `gradient_transformation`.
        gradients: by encoder, f32[slots, n, width].
        state: of the transformation, with a leading axis of slots.
        vectors: as `gradients`.
        rate: of this step, by slot.

    Returns:
        new vectors and new state.
    """
    # optax mixes floats and integers, which strict promotion refuses; nothing of ours runs in here.
    with jax.numpy_dtype_promotion("standard"):
        directions, state = jax.vmap(transformation.update)(gradients, state, vectors)
    return jax.tree.map(lambda v, d: v - rate[:, None, None] * d, vectors, directions), state
