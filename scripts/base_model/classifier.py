"""A classifier of concepts and styles that judges the bundled model, and is used for nothing else."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from captions import STYLES
from drawings import Drawings
from feed import VALIDATION, Feed, to_float
from flax import nnx
from loop import Stage, warmup_constant_decay
from scenes import Scene, alone, draw, random_scene
from state import TrainState, new_state, update

from ti_jax.models.layers import Downsample2D, GroupNorm, ResnetBlock2D, conv
from ti_jax.weights import rules
from ti_jax.weights.loader import abstract_network, load_parameters
from ti_jax.weights.tensors import open_safetensors

CLASSIFIER = Path(__file__).with_name("classifier.safetensors")
"""The one that judged what the bundled model draws of prompts."""
_SCENES, _SEED = 3, 7
"""Of its own: other scenes and other first parameters than the model's and CLIP's."""
FEED = Feed(batch_size=64)
_UNSEEN = 512
_CHANNELS, _GROUPS = (64, 128, 256), 16


class Classifier(nnx.Module):
    """A small convolutional network with two heads.

    Args:
        concepts: number of classes.
        styles: likewise.
        rngs: for the initial parameters.
        dtype: of the computation.
    """

    def __init__(self, concepts: int, styles: int, *, rngs: nnx.Rngs, dtype: Any = jnp.float32) -> None:
        types: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        blocks: dict[str, Any] = {"groups": _GROUPS, "epsilon": 1e-5, **types}
        a, b, c = _CHANNELS
        self.stem = nnx.List([conv(3, a // 2, stride=2, **types), conv(a // 2, a, stride=2, **types)])
        self.body = nnx.List(
            [
                ResnetBlock2D(a, a, **blocks),
                Downsample2D(a, 1, **types),
                ResnetBlock2D(a, b, **blocks),
                Downsample2D(b, 1, **types),
                ResnetBlock2D(b, c, **blocks),
            ]
        )
        self.norm = GroupNorm(c, _GROUPS, 1e-5, rngs=rngs)
        self.concept_head = nnx.Linear(c, concepts, **types)
        self.style_head = nnx.Linear(c, styles, **types)

    def features(self, images: jax.Array) -> jax.Array:
        """What the heads see, [b, features], of pictures [b, h, w, 3] in [-1, 1]."""
        x = jax.nn.silu(self.stem[0](images))
        x = self.stem[1](x)
        for block in self.body:
            x = block(x)
        return jnp.mean(jax.nn.silu(self.norm(x)), axis=(1, 2))

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits of the concept and of the style, each [b, classes]."""
        features = self.features(images)
        return self.concept_head(features), self.style_head(features)


def classes(drawings: Drawings) -> list[str]:
    """Codes of the concepts, in the order of the head."""
    return list(drawings.styles)


def classifier_stage(
    drawings: Drawings, *, steps: int, feed: Feed = FEED, rate: float = 1e-3, dtype: Any = jnp.float32
) -> Stage:
    """The stage of the classifier.

    Args:
        drawings: to learn from.
        steps: in all.
        feed: of its batches.
        rate: peak learning rate.
        dtype: of the computation.

    Returns:
        the stage.
    """
    schedule = warmup_constant_decay(rate, steps, warmup=50, decay=0.5)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05))
    concept_of = {code: i for i, code in enumerate(classes(drawings))}
    style_of = {style: i for i, style in enumerate(STYLES)}

    def start() -> TrainState:
        model = Classifier(len(concept_of), len(style_of), rngs=nnx.Rngs(_SEED), dtype=dtype)
        return new_state(model, optimizer)

    def step(state: TrainState, batch: dict[str, jax.Array], key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        loss, gradients = jax.value_and_grad(classification_loss)(state.parameters, batch)
        return update(state, gradients, optimizer, decay=0.998), {"loss": loss}

    def example(index: int, number: int = _SCENES) -> dict[str, np.ndarray]:
        scene = single(random_scene(drawings, (number, index)), index)
        concept, style = concept_of[scene.objects[0].code], style_of[scene.style]
        labels = {"concepts": np.asarray(concept, np.int32), "styles": np.asarray(style, np.int32)}
        return {"pictures": draw(scene, drawings), **labels}

    unseen = [example(i, VALIDATION) for i in range(_UNSEEN)]
    pictures, concepts, styles = (np.stack([row[k] for row in unseen]) for k in ("pictures", "concepts", "styles"))

    def validate(state: TrainState, folder: Path) -> dict[str, float]:
        by_concept, by_style = logits(state.average, pictures)
        return {
            "concept": float(np.mean(by_concept.argmax(axis=1) == concepts)),
            "style": float(np.mean(by_style.argmax(axis=1) == styles)),
        }

    return Stage("classifier", steps, start, lambda first: feed.batches(example, first, steps), step, validate)


def single(scene: Scene, index: int) -> Scene:
    """A scene of one concept; every other one is plain."""
    return alone(scene) if index % 2 or scene.layout == "pair" else scene


def classification_loss(model: Classifier, batch: dict[str, jax.Array]) -> jax.Array:
    """The sum of both heads' mean cross entropies."""
    heads = model(to_float(batch["pictures"]))
    losses = [
        optax.softmax_cross_entropy_with_integer_labels(scores.astype(jnp.float32), batch[name]).mean()
        for scores, name in zip(heads, ("concepts", "styles"), strict=True)
    ]
    return losses[0] + losses[1]


def logits(model: Classifier, pictures: np.ndarray, *, batch: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Both heads' scores of uint8 pictures [n, h, w, 3]."""
    parts = [_logits(model, jnp.asarray(pictures[i : i + batch])) for i in range(0, len(pictures), batch)]
    concepts, styles = (np.concatenate([np.asarray(x) for x in head]) for head in zip(*parts, strict=True))
    return concepts, styles


@jax.jit
def _logits(model: Classifier, pictures: jax.Array) -> tuple[jax.Array, jax.Array]:
    return model(to_float(pictures))


@dataclass(frozen=True)
class ClassifierJudge:
    """The trained classifier, asked as `judges.ClipJudge` is."""

    model: Classifier
    drawings: Drawings

    @property
    def names(self) -> list[str]:
        """Of the concepts, in the order of `concepts`."""
        return [self.drawings.concepts[code].name for code in classes(self.drawings)]

    def concepts(self, pictures: np.ndarray) -> np.ndarray:
        """Scores of the concepts, [n, concepts]."""
        return logits(self.model, pictures)[0]

    def styles(self, pictures: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Scores of the styles, [n, styles], whatever the names."""
        return logits(self.model, pictures)[1]


def load_classifier(file: Path, drawings: Drawings) -> ClassifierJudge:
    """The judge from what its training wrote (`export.write_classifier`), on the same drawings."""
    abstract = abstract_network(functools.partial(Classifier, len(classes(drawings)), len(STYLES)))
    tensors = open_safetensors(file)
    model = load_parameters(abstract, tensors, rules.UNET, param_dtype=jnp.float32, what=str(file))
    return ClassifierJudge(model, drawings)
