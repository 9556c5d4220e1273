"""Trains the autoencoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from drawings import Drawings
from feed import TRAINING, VALIDATION, Feed, pictures, random_crop, to_float
from flax import nnx
from loop import Stage, warmup_constant_decay
from PIL import Image
from scenes import draw, random_scene
from state import TrainState, new_state, update

from ti_jax.models.vae import AutoencoderKL, AutoencoderKLConfig

CONFIG = AutoencoderKLConfig(
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(32, 48, 96),
    layers_per_block=1,
    norm_num_groups=8,
)
FEED = Feed(batch_size=24)
_CROP = 32
"""Parts of scenes, for more different gradients in the same time; whole ones at the end, whose statistics differ."""
_WHOLE_FROM = 0.85
_SMALLER = 3
"""How many times fewer of the whole ones are in a batch."""
Part = Literal["all", "decoder"]
_KL_WEIGHT = 3e-4
_UNSEEN = 256


def vae_stage(
    drawings: Drawings,
    begin_with: AutoencoderKL | None = None,
    *,
    steps: int,
    feed: Feed = FEED,
    rate: float = 1.5e-3,
    decay: float = 0.3,
    part: Part = "all",
    dtype: Any = jnp.float32,
) -> Stage:
    """The autoencoder's stage.

    Args:
        drawings: to learn from; the measure takes other scenes of them.
        begin_with: a fresh one if None.
        steps: in all.
        feed: of its batches, those of whole scenes being smaller.
        rate: peak learning rate.
        decay: share of the steps over which it falls to zero.
        part: that learns; latents stay what they were where it is the decoder.
        dtype: of the computation.

    Returns:
        the stage.
    """
    schedule = warmup_constant_decay(rate, steps, warmup=200, decay=decay)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))

    def start() -> TrainState:
        return new_state(begin_with or AutoencoderKL(CONFIG, rngs=nnx.Rngs(0), dtype=dtype), optimizer)

    def step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        gradients, losses = jax.grad(autoencoder_loss, has_aux=True)(state.parameters, batch["pictures"], key, part)
        return update(state, gradients, optimizer, decay=0.999), losses

    unseen = pictures(drawings, VALIDATION, 0, _UNSEEN)

    def validate(state: TrainState, folder: Path) -> dict[str, float]:
        rebuilt = reconstruct(state.average, unseen)
        pair = np.concatenate([np.concatenate([*unseen[:12]], 1), np.concatenate([*rebuilt[:12]], 1)], 0)
        Image.fromarray(pair).save(folder / "vae.png")
        return {"psnr": psnr(unseen, rebuilt)}

    return Stage("vae", steps, start, lambda first: _crops(drawings, feed, first, steps), step, validate)


def _crops(drawings: Drawings, feed: Feed, first: int, steps: int) -> Iterator[dict[str, Any]]:
    """Batches of parts of scenes, and of whole ones at the end."""
    whole_from = int(_WHOLE_FROM * steps)

    def part(index: int) -> dict[str, np.ndarray]:
        picture = draw(random_scene(drawings, (TRAINING, index)), drawings)
        return {"pictures": random_crop(picture, _CROP, (TRAINING, index, 3))}

    def whole(index: int) -> dict[str, np.ndarray]:
        return {"pictures": draw(random_scene(drawings, (TRAINING, index)), drawings)}

    if first < whole_from:
        yield from itertools.islice(feed.batches(part, first, whole_from), whole_from - first)
    yield from replace(feed, batch_size=feed.batch_size // _SMALLER).batches(whole, max(first, whole_from), steps)


def autoencoder_loss(
    vae: AutoencoderKL, pictures: jax.Array, key: jax.Array, part: Part = "all"
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Absolute and squared error of pictures rebuilt from sampled latents, and a little of the divergence.

    Args:
        vae: its parameters are differentiated.
        pictures: uint8 [b, h, w, 3].
        key: of the latents' sampling.
        part: that has a gradient.

    Returns:
        the loss, and its parts.
    """
    images = to_float(pictures)
    moments = vae.encode(images)
    mean, log_variance = (x.astype(jnp.float32) for x in (moments if part == "all" else jax.lax.stop_gradient(moments)))
    log_variance = jnp.clip(log_variance, -30.0, 20.0)
    latents = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    error = vae.decode(latents).astype(jnp.float32) - images
    absolute, squared = jnp.mean(jnp.abs(error)), jnp.mean(jnp.square(error))
    divergence = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)
    loss = absolute + 4 * squared + _KL_WEIGHT * divergence
    return loss, {"loss": loss, "absolute": absolute, "squared": squared, "divergence": divergence}


def reconstruct(vae: AutoencoderKL, pictures: np.ndarray, *, batch: int = 32) -> np.ndarray:
    """Pictures through the autoencoder and back, by the mean of the latents; uint8 [n, h, w, 3] both."""
    rebuilt = [_rebuild(vae, jnp.asarray(pictures[i : i + batch])) for i in range(0, len(pictures), batch)]
    return np.concatenate([np.asarray(x) for x in rebuilt])


@jax.jit
def _rebuild(vae: AutoencoderKL, pictures: jax.Array) -> jax.Array:
    images = vae.decode(vae.encode(to_float(pictures))[0]).astype(jnp.float32)
    return jnp.round(jnp.clip((images + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def psnr(pictures: np.ndarray, rebuilt: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB."""
    squared = np.square(pictures.astype(np.float64) - rebuilt).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255.0**2 / np.maximum(squared, 1e-3))))


def scaling_factor(vae: AutoencoderKL, drawings: Drawings) -> float:
    """What makes the standard deviation of latents one, by 256 scenes."""
    scenes = pictures(drawings, VALIDATION, 0, 256)
    means = [np.asarray(_latents(vae, jnp.asarray(scenes[i : i + 32]))) for i in range(0, len(scenes), 32)]
    return float(1 / np.std(np.concatenate(means)))


@jax.jit
def _latents(vae: AutoencoderKL, pictures: jax.Array) -> jax.Array:
    return vae.encode(to_float(pictures))[0].astype(jnp.float32)
