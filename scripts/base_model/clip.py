"""Trains a CLIP of our own on scenes and their captions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from captions import STYLES, caption, in_style, with_article
from drawings import Drawings
from feed import TRAINING, VALIDATION, Feed, pictures, to_float
from flax import nnx
from loop import Stage, warmup_constant_decay
from scenes import SIZE, Scene, alone, draw, random_scene
from state import TrainState, new_state, update
from words import TEXT, ids_of, small_embeddings

from ti_jax.models.clip_vision import CLIPConfig, CLIPModel, CLIPVisionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIG = CLIPConfig(
    text=TEXT,
    vision=CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=8,
    ),
    projection_dim=128,
)
FEED = Feed(batch_size=64)
_UNSEEN = 500
_LARGEST_SCALE = 4.6052
"""Logarithm of 100, where CLIP's paper stops (Radford et al. 2021, section 2.5)."""


def clip_stage(
    train: Drawings,
    tokenizer: PreTrainedTokenizerBase,
    begin_with: CLIPModel | None = None,
    *,
    steps: int,
    feed: Feed = FEED,
    rate: float = 1e-3,
    decay: float = 0.5,
    seed: int = 0,
    dtype: Any = jnp.float32,
) -> Stage:
    """The stage of CLIP.

    Args:
        train: drawings to learn from.
        tokenizer: of the captions.
        begin_with: a fresh one if None.
        steps: in all.
        feed: of its batches.
        rate: peak learning rate.
        decay: share of the steps over which it falls to zero.
        seed: of the first parameters.
        dtype: of the computation.

    Returns:
        the stage.
    """
    schedule = warmup_constant_decay(rate, steps, warmup=200, decay=decay)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.05))

    def start() -> TrainState:
        fresh = begin_with or small_embeddings(CLIPModel(CONFIG, rngs=nnx.Rngs(seed), dtype=dtype))
        return new_state(fresh, optimizer)

    def step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, gradients = jax.value_and_grad(contrastive_loss)(
            state.parameters, batch["pictures"], batch["ids"], batch["ends"]
        )
        return update(state, gradients, optimizer, decay=0.998), {"loss": loss}

    def example(index: int) -> dict[str, np.ndarray]:
        scene, text = captioned_scene(train, index, feed.batch_size)
        ids, ends = ids_of(tokenizer, [text])
        return {"pictures": draw(scene, train), "ids": ids[0], "ends": ends[0]}

    scenes = [random_scene(train, (VALIDATION, i)) for i in range(_UNSEEN)]
    unseen = pictures(train, VALIDATION, 0, len(scenes))
    texts = ids_of(tokenizer, [caption(scene, train) for scene in scenes])

    def validate(state: TrainState, folder: Path) -> dict[str, float]:
        similarity = image_vectors(state.average, unseen) @ text_vectors(state.average, *texts).T
        return {f"recall_at_{k}": recall(similarity, k) for k in (1, 5)}

    return Stage("clip", steps, start, lambda first: feed.batches(example, first, steps), step, validate)


def captioned_scene(drawings: Drawings, index: int, batch_size: int) -> tuple[Scene, str]:
    """An example for training; a batch's are alike in what its number says, so that they differ in something fine.

    Args:
        drawings: to take from.
        index: of the example.
        batch_size: examples in a batch.

    Returns:
        in every second batch any scene, which backgrounds and places tell apart; otherwise one large thing on white, in
        every fourth batch the same few things by every hand.
    """
    scene = random_scene(drawings, (TRAINING, index))
    batch, place = divmod(index, batch_size)
    if batch % 2 == 0:
        return scene, caption(scene, drawings)
    if batch % 4 == 1:
        return alone(scene), caption(alone(scene), drawings)
    by_all = [code for code, styles in drawings.styles.items() if len(styles) == len(STYLES)]
    thing, style = divmod(place, len(STYLES))
    code = str(np.random.default_rng((TRAINING, batch, 4)).permutation(by_all)[thing % len(by_all)])
    scene = replace(alone(scene), style=list(STYLES)[style], objects=(replace(alone(scene).objects[0], code=code),))
    return scene, in_style(with_article(drawings.concepts[code].name), scene.style, np.random.default_rng(scene.seed))


def contrastive_loss(model: CLIPModel, pictures: jax.Array, ids: jax.Array, ends: jax.Array) -> jax.Array:
    """Figure 3 of Radford et al. 2021 (arXiv 2103.00020): each picture finds its text among the batch's, and back.

    Args:
        model: its parameters are differentiated.
        pictures: uint8 [b, h, w, 3].
        ids: int32 [b, l].
        ends: int32 [b], positions of the ends of the texts.

    Returns:
        the mean of both cross entropies.
    """
    scale = jnp.exp(jnp.minimum(model.logit_scale[...], _LARGEST_SCALE))
    logits = scale * model.image_features(to_float(pictures)) @ model.text_features(ids, ends).T
    own = jnp.arange(logits.shape[0])
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, own)
    columns = optax.softmax_cross_entropy_with_integer_labels(logits.T, own)
    return 0.5 * (jnp.mean(rows) + jnp.mean(columns))


def image_vectors(model: CLIPModel, pictures: np.ndarray, *, batch: int = 100) -> np.ndarray:
    """Unit vectors [n, features] of uint8 pictures [n, h, w, 3]."""
    chunks = [pictures[i : i + batch] for i in range(0, len(pictures), batch)]
    return np.concatenate([np.asarray(_image_features(model, chunk)) for chunk in chunks])


def text_vectors(model: CLIPModel, ids: np.ndarray, ends: np.ndarray, *, batch: int = 100) -> np.ndarray:
    """Unit vectors [n, features] of tokens [n, l] that end at [n]."""
    chunks = [(ids[i : i + batch], ends[i : i + batch]) for i in range(0, len(ids), batch)]
    return np.concatenate([np.asarray(_text_features(model, *chunk)) for chunk in chunks])


@jax.jit
def _image_features(model: CLIPModel, pictures: jax.Array) -> jax.Array:
    return model.image_features(to_float(pictures))


@jax.jit
def _text_features(model: CLIPModel, ids: jax.Array, ends: jax.Array) -> jax.Array:
    return model.text_features(ids, ends)


def recall(similarity: np.ndarray, k: int) -> float:
    """Share of rows whose own column is among the k largest."""
    own = np.diag(similarity)[:, None]
    return float(np.mean((similarity > own).sum(axis=1) < k))
