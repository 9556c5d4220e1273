"""Trains the text encoder and the UNet together, on encoded scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from captions import caption
from drawings import Drawings
from export import SCHEDULER
from feed import TRAINING, VALIDATION, pictures, to_float
from flax import nnx
from loop import Stage, warmup_constant_decay
from samples import contact_sheet, sample_pictures
from scenes import random_scene
from state import TrainState, new_state, update
from words import TEXT, ids_of, small_embeddings

from ti_jax.diffusion.schedule import NoiseSchedule, add_noise, min_snr_weights, target
from ti_jax.models.clip import CLIPTextModel
from ti_jax.models.unet import UNet2DConditionModel, UNetConfig
from ti_jax.models.vae import AutoencoderKL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = UNetConfig(
    sample_size=16,
    block_out_channels=(64, 128, 192),
    # Attention at 16 x 16 would make a step 2.5 times slower.
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=TEXT.hidden_size,
    attention_head_dim=4,
    norm_num_groups=16,
)
_BATCH, _POOL, _PASSES = 48, 4800, 3
"""Scenes in a step; encoded scenes in memory, and how often each is used before others take their place."""
_EMPTY_CAPTIONS = 0.1
_GAMMA = 5.0
_UNSEEN = 384


class Networks(NamedTuple):
    """What is trained."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel


class Pool(NamedTuple):
    """Encoded scenes: moments of their latents, scaled, and tokens of their captions."""

    mean: np.ndarray
    deviation: np.ndarray
    ids: np.ndarray


def unet_stage(
    train: Drawings,
    tokenizer: PreTrainedTokenizerBase,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel | None,
    *,
    steps: int,
    rate: float = 6e-4,
    dtype: Any = jnp.float32,
) -> Stage:
    """The stage of the text encoder and the UNet.

    Args:
        train: drawings to learn from.
        tokenizer: of the captions.
        vae: trained; its config has the scaling factor.
        text_encoder: to begin with, such as CLIP's; a fresh one if None.
        steps: in all.
        rate: peak learning rate.
        dtype: of the computation.

    Returns:
        the stage.
    """
    schedule = NoiseSchedule.from_config(SCHEDULER)
    rates = warmup_constant_decay(rate, steps, warmup=300, decay=0.2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rates, b2=0.99, weight_decay=0.01))
    empty = jnp.asarray(ids_of(tokenizer, [""])[0])

    def start() -> TrainState:
        text = text_encoder or small_embeddings(CLIPTextModel(TEXT, rngs=nnx.Rngs(0), dtype=dtype))
        return new_state(Networks(text, UNet2DConditionModel(CONFIG, rngs=nnx.Rngs(1), dtype=dtype)), optimizer)

    def step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        drop, others = jax.random.split(key)
        is_empty = jax.random.bernoulli(drop, _EMPTY_CAPTIONS, batch["ids"].shape[:1])
        ids = jnp.where(is_empty[:, None], empty, batch["ids"])
        loss, gradients = jax.value_and_grad(denoising_loss)(state.parameters, schedule, {**batch, "ids": ids}, others)
        return update(state, gradients, optimizer, decay=0.9995), {"loss": loss}

    unseen = encode(train, tokenizer, vae, VALIDATION, 0, _UNSEEN)
    evaluate = jax.jit(denoising_loss)

    def validate(state: TrainState, folder: Path) -> dict[str, float]:
        loss = evaluate(state.average, schedule, unseen._asdict(), jax.random.key(1))
        contact_sheet(sample_pictures(state.average, vae, tokenizer, schedule)).save(folder / "unet.png")
        return {"validation_loss": float(loss)}

    def batches(first: int) -> Iterator[dict[str, Any]]:
        return _pooled(lambda number: encode(train, tokenizer, vae, TRAINING, number * _POOL, _POOL), first)

    return Stage("unet", steps, start, batches, step, validate)


def denoising_loss(
    networks: Networks, schedule: NoiseSchedule, batch: dict[str, jax.Array], key: jax.Array
) -> jax.Array:
    """The weighted error of the network's prediction (min-SNR, Hang et al. 2023) at timesteps that are spread evenly.

    Args:
        networks: their parameters are differentiated.
        schedule: of the noise.
        batch: as `Pool`.
        key: of latents, noise and timesteps.

    Returns:
        the mean over the batch.
    """
    for_latents, for_noise, for_times = jax.random.split(key, 3)
    mean, deviation = (jnp.asarray(batch[name], jnp.float32) for name in ("mean", "deviation"))
    latents = mean + deviation * jax.random.normal(for_latents, mean.shape)
    noise = jax.random.normal(for_noise, mean.shape)
    count = mean.shape[0]
    times = (jnp.arange(count, dtype=jnp.float32) + jax.random.uniform(for_times, (count,))) / count
    timesteps = jnp.minimum((times * schedule.num_timesteps).astype(jnp.int32), schedule.num_timesteps - 1)
    context = contexts(networks.text_encoder, batch["ids"])
    predicted = networks.unet(add_noise(schedule, latents, noise, timesteps), timesteps, context)
    wanted = target(schedule, latents, noise, timesteps)
    error = jnp.mean(jnp.square(predicted.astype(jnp.float32) - wanted), axis=(1, 2, 3))
    return jnp.mean(min_snr_weights(schedule, timesteps, _GAMMA) * error)


def contexts(text_encoder: CLIPTextModel, ids: jax.Array) -> jax.Array:
    """What the UNet attends to."""
    return text_encoder(text_encoder.embed(ids), jnp.zeros(ids.shape[0], jnp.int32)).last_hidden_state


def encode(
    drawings: Drawings, tokenizer: PreTrainedTokenizerBase, vae: AutoencoderKL, number: int, first: int, count: int
) -> Pool:
    """Encodes scenes in order; for the arguments, see `feed.pictures`."""
    parts = [
        [np.asarray(x, np.float16) for x in _moments(vae, pictures(drawings, number, i, min(48, first + count - i)))]
        for i in range(first, first + count, 48)
    ]
    mean, deviation = (np.concatenate(column) for column in zip(*parts, strict=True))
    captions = [caption(random_scene(drawings, (number, i)), drawings) for i in range(first, first + count)]
    return Pool(mean, deviation, ids_of(tokenizer, captions)[0])


@jax.jit
def _moments(vae: AutoencoderKL, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_variance = vae.encode(to_float(images))
    scale = vae.config.scaling_factor
    return scale * mean.astype(jnp.float32), scale * jnp.exp(0.5 * log_variance.astype(jnp.float32))


def _pooled(pool_of: Any, first: int) -> Iterator[dict[str, Any]]:
    """Batches from step `first` on: pool after pool, each shuffled `_PASSES` times."""
    per_pass = _POOL // _BATCH
    step = first
    while True:
        number = step // (per_pass * _PASSES)
        pool = pool_of(number)
        while step // (per_pass * _PASSES) == number:
            passed, position = divmod(step, per_pass)
            order = np.random.default_rng((number, passed)).permutation(_POOL)
            rows = order[position * _BATCH : (position + 1) * _BATCH]
            yield {name: array[rows] for name, array in pool._asdict().items()}
            step += 1
