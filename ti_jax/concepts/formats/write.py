"""Concepts to a file."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from ti_jax.concepts.concept import Concept
from ti_jax.concepts.formats import pickled, safetensors
from ti_jax.errors import UserError
from ti_jax.files import write_bytes

logger = logging.getLogger(__name__)

FORMATS = ("diffusers", "a1111", "kohya", "comfyui", "sdxl", "invoke", "official")
WRITABLE = (".safetensors", ".pt", ".bin")

_SDXL = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
_BERT_WIDTH = 1280  # of the official code's first model, LDM text2img-large
_BERT_STAR = 1008  # the id of * in bert-base-uncased
_CHECKPOINT_KEYS = ("sd_checkpoint", "sd_checkpoint_name")


def write(concepts: Concept | Sequence[Concept], path: epath.PathLike, *, to: str | None = None) -> None:
    """Writes concepts as a program reads them, float32, whole or not at all.

    Args:
        concepts: one, or several for the official format. Of two encoders (SDXL) it is one file for every program.
        path: ends in `.safetensors`, `.pt` or `.bin`, the latter two through the extra `[torch]`.
        to: the program, one of `FORMATS`. If None it is A1111 for `.pt` and diffusers for others, whose files A1111 and
            ComfyUI read as well.

    Raises:
        UserError: if the program does not read such a file, or torch is not installed.
    """
    concepts = [concepts] if isinstance(concepts, Concept) else list(concepts)
    suffix = epath.Path(path).suffix
    if suffix not in WRITABLE:
        raise UserError(f"{path}: concepts are written as .safetensors, or as .pt or .bin")
    to = to or default_format(path)
    if to not in FORMATS:
        raise UserError(f"there is no format {to!r}: choose one of {', '.join(FORMATS)}")
    try:
        data = _official(concepts, suffix) if to == "official" else _one(concepts, suffix, to)
    except ImportError as error:
        raise UserError(f'{path} is written by torch: pip install "ti-jax[torch]"') from error
    write_bytes(path, data)


def default_format(path: epath.PathLike) -> str:
    """The program that a file is for, by its ending, if nothing else is said."""
    return "a1111" if epath.Path(path).suffix == ".pt" else "diffusers"


def _one(concepts: Sequence[Concept], suffix: str, to: str) -> bytes:
    """A file of one concept."""
    if len(concepts) != 1:
        words = ", ".join(concept.placeholder for concept in concepts[:20])
        raise UserError(f"{to} reads one concept a file, not {words}: choose one by --token, or --to official")
    (concept,) = concepts
    arrays = _arrays(concept, to)
    if suffix == ".safetensors":
        metadata = {**concept.metadata, "placeholder": concept.placeholder, "format": "ti_jax"}
        return safetensors.encode(arrays, metadata)
    import torch

    tensors = {name: torch.tensor(values) for name, values in arrays.items()}
    if to == "a1111" and len(tensors) == 1:
        return pickled.encode(_a1111(concept, next(iter(tensors.values()))))
    return pickled.encode(tensors)


def _arrays(concept: Concept, to: str) -> dict[str, np.ndarray]:
    """Vectors by the names that a program expects."""
    arrays = {name: np.asarray(values, np.float32) for name, values in concept.vectors.items()}
    if to == "sdxl" and len(arrays) == 1:
        raise UserError(f"{concept.placeholder} has vectors of one text encoder, and SDXL has two: it is not for SDXL")
    if len(arrays) > 1:
        return {_SDXL[name]: values for name, values in arrays.items()}
    (values,) = arrays.values()
    return {concept.placeholder if to == "diffusers" else "emb_params": values}


def _a1111(concept: Concept, tensor: Any) -> dict[str, Any]:
    """As A1111's `Embedding.save` in modules/textual_inversion/textual_inversion.py."""
    step = concept.metadata.get("step", concept.metadata.get("steps", ""))
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": tensor},
        "name": concept.placeholder,
        "step": int(step) if step.isdecimal() else None,
        **{key: concept.metadata.get(key) for key in _CHECKPOINT_KEYS},
    }


def _official(concepts: Sequence[Concept], suffix: str) -> bytes:
    """As `EmbeddingManager.save` of rinongal/textual_inversion, ldm/modules/embedding_manager.py."""
    if suffix == ".safetensors":
        raise UserError("the official code reads .pt, not .safetensors: change the file's name")
    for concept in concepts:
        if list(concept.vectors) != ["text_encoder"]:
            raise UserError(f"{concept.placeholder} is for SDXL, which the official code does not know")
    import torch

    for word in (concept.placeholder for concept in concepts):
        if "." in word or hasattr(torch.nn.ParameterDict(), word):
            raise UserError(
                f"{word} cannot be written to official, which takes no word with a dot or of torch's own, such as "
                "keys: rename it by ti-jax convert --token"
            )
    tensors = {concept.placeholder: torch.tensor(np.asarray(concept.vectors["text_encoder"])) for concept in concepts}
    parameters = OrderedDict((word, torch.nn.Parameter(tensor)) for word, tensor in tensors.items())  # a dict it sorts
    ids = _token_ids(tensors, width=concepts[0].vectors["text_encoder"].shape[1])
    return pickled.encode(
        {
            "string_to_token": {word: torch.tensor(ids[word]) for word in parameters},
            "string_to_param": torch.nn.ParameterDict(parameters),
        }
    )


def _token_ids(words: Iterable[str], *, width: int) -> dict[str, int]:
    """What the official code looks for in a prompt: the one token of a word, or -1, which nothing matches."""
    if width == _BERT_WIDTH:
        return {word: _BERT_STAR if word == "*" else -1 for word in words}
    from ti_jax.weights.tokenizer import clip_tokenizer

    tokenizer = clip_tokenizer(padding="!")
    found: dict[str, list[int]] = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in words}
    for word, ids in found.items():
        if len(ids) > 1:
            logger.warning("the official code finds words of one token, such as *, but not %s; others find it", word)
    return {word: ids[0] if len(ids) == 1 else -1 for word, ids in found.items()}
