"""CLIP as a judge: texts and pictures as unit vectors of one space."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, UInt8

from ti_jax.compilation import jit
from ti_jax.concepts.prompts import tokenize
from ti_jax.errors import UserError
from ti_jax.evaluation.preprocessing import Preprocessing
from ti_jax.models.clip_vision import CLIPConfig, CLIPModel
from ti_jax.weights.hub import resolve_clip
from ti_jax.weights.index import read_json
from ti_jax.weights.layout import find_weights
from ti_jax.weights.loader import abstract_network, load_parameters
from ti_jax.weights.rules import CLIP
from ti_jax.weights.tensors import open_weights
from ti_jax.weights.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 32


@dataclass(frozen=True)
class Clip:
    """Both towers, frozen, with their tokenizer; made by `load_clip`."""

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase
    preprocessing: Preprocessing
    source: str
    """What the user called it."""

    def image_vectors(self, pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n features"]:
        """Unit vectors of pictures, uint8 [h, w, 3] of any sizes."""
        parts = [pictures[i : i + _BATCH] for i in range(0, len(pictures), _BATCH)]
        prepared = (np.stack([self.preprocessing(picture) for picture in part]) for part in parts)
        return np.concatenate([np.asarray(_image_features(self.model, images)) for images in prepared])

    def text_vectors(self, texts: Sequence[str]) -> Float32[np.ndarray, "n features"]:
        """Unit vectors of texts; one that is too long is cut off with a warning."""
        config = self.model.config.text
        length = min(config.max_position_embeddings, self.tokenizer.model_max_length)
        tokens = tokenize(texts, self.tokenizer, {}, max_length=length, eos_token_id=config.eos_token_id)
        return np.asarray(_text_features(self.model, jnp.asarray(tokens.ids), jnp.asarray(tokens.pool_index)))


def load_clip(source: str | Path, *, revision: str | None = None) -> Clip:
    """Loads both towers of CLIP.

    Args:
        source: `tiny` (bundled), a folder in transformers' format, or an id on the Hugging Face hub such as
            `openai/clip-vit-base-patch32`.
        revision: branch, tag or commit on the hub.

    Returns:
        the towers, in float32 on the default device: scores should not depend on it.

    Raises:
        UserError: if there is no such model, a file is missing or damaged, or it is of another kind.
    """
    folder = resolve_clip(str(source), revision=revision)
    values = read_json(folder / "config.json")
    if values.get("model_type") != "clip":
        raise UserError(f"{source} is no CLIP: its config.json says model_type = {values.get('model_type')!r}")
    config = CLIPConfig.from_dict(values)
    preprocessing = Preprocessing.from_dict(_image_processor(folder))
    if preprocessing.side != config.vision.image_size:
        raise UserError(
            f"{source}: pictures are prepared at {preprocessing.side} pixels, and its image tower takes "
            f"{config.vision.image_size}"
        )
    tensors = open_weights(find_weights(folder, variant=None, network="text_encoder"))
    model = load_parameters(
        abstract_network(functools.partial(CLIPModel, config)), tensors, CLIP, param_dtype=jnp.float32, what=str(source)
    )
    return Clip(model, load_tokenizer(folder), preprocessing, str(source))


def _image_processor(folder: Path) -> Mapping[str, Any]:
    """Its config, which transformers 5 keeps inside the processor's (`image_processing_base.py`)."""
    file = folder / "processor_config.json"
    nested = read_json(file).get("image_processor") if file.exists() else None
    return nested if isinstance(nested, Mapping) else read_json(folder / "preprocessor_config.json")


@jit
def _image_features(model: CLIPModel, images: Float[Array, "b h w 3"]) -> Float32[Array, "b features"]:
    return model.image_features(images)


@jit
def _text_features(
    model: CLIPModel, ids: Int32[Array, "b l"], pool_index: Int32[Array, " b"]
) -> Float32[Array, "b features"]:
    return model.text_features(ids, pool_index)
