"""Trains the text encoder and the UNet together, on encoded scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from captions import caption, portrait
from drawings import Drawings
from export import SCHEDULER
from feed import TRAINING, VALIDATION, Example, Feed, to_float
from flax import nnx
from loop import Stage, warmup_constant_decay
from samples import contact_sheet, sample_pictures
from scenes import draw, random_scene
from state import TrainState, new_state, update
from words import TEXT, ids_of, small_embeddings

from ti_jax.diffusion.schedule import NoiseSchedule, add_noise, target
from ti_jax.models.clip import CLIPTextModel
from ti_jax.models.unet import UNet2DConditionModel, UNetConfig
from ti_jax.models.vae import AutoencoderKL

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = UNetConfig(
    sample_size=16,
    block_out_channels=(96, 144, 208),
    # Attention at 16 x 16 would make a step 2.5 times slower.
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=TEXT.hidden_size,
    attention_head_dim=4,
    norm_num_groups=16,
)
FEED = Feed(batch_size=48, pool=100, passes=3)
_EMPTY_CAPTIONS = 0.1
_STRONG = 0.3
_UNSEEN = 384


class Networks(NamedTuple):
    """What is trained."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel


def unet_stage(
    train: Drawings,
    tokenizer: PreTrainedTokenizerBase,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel | None,
    unet: UNet2DConditionModel | None = None,
    *,
    steps: int,
    feed: Feed = FEED,
    rate: float = 6e-4,
    decay: float = 0.2,
    portraits: float = 0.0,
    dtype: Any = jnp.float32,
) -> Stage:
    """The stage of the text encoder and the UNet.

    Args:
        train: drawings to learn from.
        tokenizer: of the captions.
        vae: trained; its config has the scaling factor.
        text_encoder: to begin with, such as CLIP's; a fresh one if None.
        unet: likewise.
        steps: in all.
        feed: of its batches.
        rate: peak learning rate.
        decay: share of the steps over which it falls to zero.
        portraits: share of the examples that are one large thing, mostly with its style named.
        dtype: of the computation.

    Returns:
        the stage.
    """
    schedule = NoiseSchedule.from_config(SCHEDULER)
    rates = warmup_constant_decay(rate, steps, warmup=60, decay=decay)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), muon(rates))
    empty = jnp.asarray(ids_of(tokenizer, [""])[0])

    def start() -> TrainState:
        text = text_encoder or small_embeddings(CLIPTextModel(TEXT, rngs=nnx.Rngs(0), dtype=dtype))
        return new_state(Networks(text, unet or UNet2DConditionModel(CONFIG, rngs=nnx.Rngs(1), dtype=dtype)), optimizer)

    def step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        drop, others = jax.random.split(key)
        is_empty = jax.random.bernoulli(drop, _EMPTY_CAPTIONS, batch["ids"].shape[:1])
        ids = jnp.where(is_empty[:, None], empty, batch["ids"])
        loss, gradients = jax.value_and_grad(denoising_loss)(state.parameters, schedule, {**batch, "ids": ids}, others)
        return update(state, gradients, optimizer, decay=0.9995), {"loss": loss}

    def example(index: int, number: int = TRAINING) -> Example:
        scene = random_scene(train, (number, index))
        is_portrait = number == TRAINING and np.random.default_rng((number, index, 4)).random() < portraits
        scene, words = portrait(scene, train) if is_portrait else (scene, caption(scene, train))
        return {"pictures": draw(scene, train), "ids": ids_of(tokenizer, [words])[0][0]}

    def prepare(batch: Example) -> dict[str, jax.Array]:
        mean, deviation = _moments(vae, batch["pictures"])
        return {"mean": mean, "deviation": deviation, "ids": jnp.asarray(batch["ids"])}

    unseen = prepare(jax.tree.map(lambda *rows: np.stack(rows), *(example(i, VALIDATION) for i in range(_UNSEEN))))
    evaluate = jax.jit(denoising_loss)

    def validate(state: TrainState, folder: Path) -> dict[str, float]:
        loss = evaluate(state.average, schedule, unseen, jax.random.key(1))
        contact_sheet(sample_pictures(state.average, vae, tokenizer, schedule)).save(folder / "unet.png")
        return {"validation_loss": float(loss)}

    def batches(first: int) -> Iterator[dict[str, Any]]:
        return feed.batches(example, first, steps, prepare)

    return Stage("unet", steps, start, batches, step, validate)


def muon(rates: optax.Schedule) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for kernels inside of the networks, AdamW with Nesterov's momentum for the rest, at the
    same rates.

    Most of what is learned are thousands of drawings, each of them rarely seen. What is rare is learned better by steps
    in which all directions of a kernel count alike (Wang et al. 2025, arXiv 2509.26030).
    """

    def matrices(parameters: Any) -> Any:
        def axes(path: Any, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
            name = jax.tree_util.keystr(path)
            if "kernel" not in name or "conv_in" in name or "conv_out" in name:
                return None
            return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

        return jax.tree_util.tree_map_with_path(axes, parameters)

    return optax.contrib.muon(
        rates,
        weight_decay=0.01,
        adam_weight_decay=0.01,
        adam_b2=0.99,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,  # of the size of AdamW's changes (Liu et al. 2025, arXiv 2502.16982)
    )


def denoising_loss(
    networks: Networks, schedule: NoiseSchedule, batch: dict[str, jax.Array], key: jax.Array
) -> jax.Array:
    """The squared error of the predicted velocity, at timesteps of two kinds.

    Words say most where a picture is all but noise: `_STRONG` of the examples have timesteps that are the likelier the
    more noise they have. (Weights of min-SNR, Hang et al. 2023, would make the last timestep count 1/200, and the model
    would hardly learn what a word looks like.) How a thing is drawn is decided where noise is weaker: the others have
    the timesteps below 1 - `_STRONG` of all alike.

    Args:
        networks: their parameters are differentiated.
        schedule: of the noise.
        batch: `mean` and `deviation` of encoded scenes, scaled, float [b, h, w, c], and `ids` of their captions.
        key: of latents, noise and timesteps.

    Returns:
        the mean over the batch.
    """
    for_latents, for_noise, for_times = jax.random.split(key, 3)
    mean, deviation = (jnp.asarray(batch[name], jnp.float32) for name in ("mean", "deviation"))
    latents = mean + deviation * jax.random.normal(for_latents, mean.shape)
    noise = jax.random.normal(for_noise, mean.shape)
    count = mean.shape[0]
    evenly = (jnp.arange(count, dtype=jnp.float32) + jax.random.uniform(for_times, (count,))) / count
    times = jnp.where(evenly < _STRONG, jnp.sqrt(evenly / _STRONG), evenly - _STRONG)
    timesteps = jnp.minimum((times * schedule.num_timesteps).astype(jnp.int32), schedule.num_timesteps - 1)
    context = contexts(networks.text_encoder, batch["ids"])
    predicted = networks.unet(add_noise(schedule, latents, noise, timesteps), timesteps, context)
    wanted = target(schedule, latents, noise, timesteps)
    return jnp.mean(jnp.square(predicted.astype(jnp.float32) - wanted))


def contexts(text_encoder: CLIPTextModel, ids: jax.Array) -> jax.Array:
    """What the UNet attends to."""
    return text_encoder(text_encoder.embed(ids), jnp.zeros(ids.shape[0], jnp.int32)).last_hidden_state


@jax.jit
def _moments(vae: AutoencoderKL, images: jax.Array) -> tuple[jax.Array, ...]:
    mean, log_variance = vae.encode(to_float(images))
    scale = vae.config.scaling_factor
    moments = scale * mean.astype(jnp.float32), scale * jnp.exp(0.5 * log_variance.astype(jnp.float32))
    return tuple(x.astype(jnp.float16) for x in moments)
