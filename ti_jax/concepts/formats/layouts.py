"""How programs arrange the vectors of words in a file.

A reader of a layout takes a file's entries and gives the words in it, or None if the layout is another; the first one
that knows the file wins. Messages of errors go on from "FILE ".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ti_jax.concepts.formats.content import Content, Stored, show, show_all
from ti_jax.errors import UserError

logger = logging.getLogger(__name__)

Found = tuple[str | None, dict[str, Stored]]
"""A word, if the layout has one, and its arrays by encoder."""

_ENCODERS = {
    "emb_params": "text_encoder",  # kohya, invoke-training
    "emp_params": "text_encoder",  # OneTrainer, who writes it so
    "string_to_param.*": "text_encoder",  # in bundles
    "clip_l": "text_encoder",
    "clip_h": "text_encoder",  # Stable Diffusion 2's, in ComfyUI
    "clip_g": "text_encoder_2",
    "text_encoders_0": "text_encoder",  # Replicate's cog-sdxl, and the first "advanced" scripts of diffusers
    "text_encoders_1": "text_encoder_2",
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
}
_FOREIGN = ("t5", "t5xxl", "llama", "gemma", "qwen")
_BUNDLE = "bundle_emb."
_XTI = {"IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID", "OUT03", "OUT04", "OUT05", "OUT06", "OUT11"}


def find(content: Content) -> list[Found]:
    """The words in a file.

    Raises:
        UserError: if no layout fits, or one does that has no meaning here.
    """
    for layout in LAYOUTS:
        found = layout(content)
        if found is not None:
            return found
    raise UserError(f"holds {show_all(content.entries)}: that is no embedding layout we know")


def _a1111(content: Content) -> list[Found] | None:
    """A1111's and the official code's: {string_to_param: {word or *: [n, width]}, name: ...}.

    Sources: A1111, modules/textual_inversion/textual_inversion.py, `Embedding.save`; rinongal/textual_inversion,
    ldm/modules/embedding_manager.py, `EmbeddingManager.save`.
    """
    parameters = content.entries.get("string_to_param")
    arrays = _arrays(parameters) if isinstance(parameters, Mapping) else {}
    if not arrays:
        return None
    if len(arrays) > 1:
        return [(word, {"text_encoder": stored}) for word, stored in arrays.items()]
    ((word, stored),) = arrays.items()
    name = content.entries.get("name")
    return [(_named(word) or (name if isinstance(name, str) else None), {"text_encoder": stored})]


def _xti(content: Content) -> list[Found] | None:
    """kohya's `train_textual_inversion_XTI.py`: vectors for every layer of the UNet."""
    if len(_XTI & content.entries.keys()) > 1:
        raise UserError("holds vectors for each layer of the UNet (XTI), which is another method and not supported")
    return None


def _bundle(content: Content) -> list[Found] | None:
    """Words inside a LoRA: {bundle_emb.WORD.ENCODER: [n, width]}; the LoRA itself is left alone.

    Source: Nerogar/OneTrainer, `bundle_additional_embeddings` of its LoRA savers.
    """
    words: dict[str, dict[str, Stored]] = {}
    for name, stored in _arrays(content.entries).items():
        if name.startswith(_BUNDLE):
            word, encoder = _split(name.removeprefix(_BUNDLE))
            words.setdefault(word, {})[encoder] = stored
    return [(word, _by_encoder(entries)) for word, entries in words.items()] or None


def _split(name: str) -> tuple[str, str]:
    """A word, which may have dots, and the key of its encoder."""
    for encoder in (*_ENCODERS, *_FOREIGN):
        for ending in (encoder, f"{encoder}_out"):
            if name.endswith(f".{ending}"):
                return name.removesuffix(f".{ending}"), ending
    return name.partition(".")[0], "emb_params"


def _encoders(content: Content) -> list[Found] | None:
    """One word without its name, by encoder: {clip_l: [n, 768], clip_g: [n, 1280]}, {emb_params: [n, width]}, ...

    Sources: kohya-ss/sd-scripts, train_textual_inversion.py and sdxl_train_textual_inversion.py; Nerogar/OneTrainer,
    its embedding savers; diffusers, examples/advanced_diffusion_training; replicate/cog-sdxl.
    """
    arrays = _arrays(content.entries)
    if not any(name.removesuffix("_out") in (*_ENCODERS, *_FOREIGN) for name in arrays):
        return None
    return [(None, _by_encoder(arrays))]


def _marked(content: Content) -> list[Found] | None:
    """Words inside cloneofsimo's LoRA: {WORD: [width]}, with the metadata {WORD: "<embed>"}.

    Source: cloneofsimo/lora, lora_diffusion/lora.py, `save_safeloras_with_embeds`.
    """
    arrays = _arrays(content.entries)
    words = [name for name in arrays if content.metadata.get(name) == "<embed>"]
    return [(word, {"text_encoder": arrays[word]}) for word in words] or None


def _words(content: Content) -> list[Found] | None:
    """diffusers' {WORD: [n, width]}, with several words if all are in <brackets>; and a bare array.

    Source: diffusers, examples/textual_inversion/textual_inversion.py, `save_progress`.
    """
    arrays = _arrays(content.entries)
    if any(isinstance(value, Mapping) for value in content.entries.values()):
        return None
    if len(arrays) == 1 or all(word.startswith("<") and word.endswith(">") for word in arrays):
        return [(_named(word), {"text_encoder": stored}) for word, stored in arrays.items()] or None
    return None


LAYOUTS: tuple[Callable[[Content], list[Found] | None], ...] = (_a1111, _xti, _bundle, _encoders, _marked, _words)


def _named(word: str) -> str | None:
    """A word, unless it stands for any."""
    return None if word in ("*", "") else word


def _arrays(entries: Mapping[str, Any]) -> dict[str, Stored]:
    return {name: value for name, value in entries.items() if isinstance(value, Stored)}


def _by_encoder(arrays: Mapping[str, Stored]) -> dict[str, Stored]:
    """Arrays under the names of our encoders."""
    found: dict[str, Stored] = {}
    for name, stored in arrays.items():
        encoder = _ENCODERS.get(name)
        if name.endswith("_out") and _ENCODERS.keys() & arrays.keys():
            logger.warning("%s is left out: it holds vectors for an encoder's output", name)
        elif name.endswith("_out"):
            raise UserError(f"holds vectors for an encoder's output ({name}), which are not supported")
        elif encoder is None:
            raise UserError(f"holds {show(name)}, which no encoder of Stable Diffusion has: is it for another model?")
        elif encoder in found:
            raise UserError(f"holds {show_all(arrays)}: two of them are for one encoder")
        else:
            found[encoder] = stored
    return dict(sorted(found.items()))
