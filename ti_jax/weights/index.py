"""What a folder in diffusers format says it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ti_jax.errors import UserError

_CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
_CLIP_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast")
_STABLE_DIFFUSION = {
    "text_encoder": ("text_encoder", _CLIP),
    "tokenizer": ("tokenizer", _CLIP_TOKENIZER),
    "unet": ("unet", ("UNet2DConditionModel",)),
    "vae": ("vae", ("AutoencoderKL",)),
}
_STABLE_DIFFUSION_XL = {
    **_STABLE_DIFFUSION,
    "text_encoder_2": ("text_encoder_2", _CLIP),
    "tokenizer_2": ("tokenizer_2", _CLIP_TOKENIZER),
}
PIPELINES: Mapping[str, Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "StableDiffusionPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": _STABLE_DIFFUSION_XL,
    "StableDiffusionImg2ImgPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLImg2ImgPipeline": _STABLE_DIFFUSION_XL,
    "StableDiffusionInpaintPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLInpaintPipeline": _STABLE_DIFFUSION_XL,
    "LDMTextToImagePipeline": {
        **_STABLE_DIFFUSION,
        "text_encoder": ("bert", ("LDMBertModel",)),
        "tokenizer": ("tokenizer", ("BertTokenizer", "BertTokenizerFast")),
        "vae": ("vqvae", ("AutoencoderKL",)),
    },
}
"""Of each pipeline: its parts by our names, with their folders and the classes that are implemented here. Schedulers
are judged by their own config, and the rest is not needed."""


@dataclass(frozen=True)
class Part:
    """A part of a pipeline."""

    folder: str
    kind: str
    """Name of its class."""

    @property
    def is_network(self) -> bool:
        """Whether it has weights."""
        return not self.folder.startswith(("tokenizer", "scheduler"))


@dataclass(frozen=True)
class Index:
    """What a `model_index.json` says."""

    pipeline: str
    """Name of its class."""
    parts: dict[str, Part]
    """By our names: `text_encoder`, `tokenizer`, `unet`, `vae`, `scheduler` and so on."""
    options: dict[str, Any]
    """Its other settings."""


def read_index(folder: Path, *, source: str) -> Index:
    """The parts of a pipeline, from its `model_index.json`.

    Args:
        folder: of the pipeline.
        source: what the user called it, for messages.

    Returns:
        its class, its parts and its options.

    Raises:
        UserError: if there is no such file, or it names a pipeline or a part that is not implemented.
    """
    if not (folder / "model_index.json").exists():
        raise UserError(f"{source} is not a pipeline in diffusers format: it has no model_index.json")
    values = read_json(folder / "model_index.json")
    name = str(values.get("_class_name"))
    if name not in PIPELINES:
        raise UserError(f"{source} is a {name}, which cannot be loaded: only {', '.join(PIPELINES)} can")
    parts: dict[str, Part] = {}
    for part, (place, kinds) in {**PIPELINES[name], "scheduler": ("scheduler", ())}.items():
        entry = values.get(place)
        kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if kind is None:
            raise UserError(f"{source} has no {place}: its model_index.json names none")
        if kinds and kind not in kinds:
            raise UserError(f"{source}: its {place} is a {kind}, and only {' and '.join(kinds)} can be read")
        parts[part] = Part(place, kind)
    return Index(name, parts, {key: value for key, value in values.items() if not isinstance(value, list)})


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        UserError: if it is missing, or no JSON object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: copy or download the whole model") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({error}): copy or download it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} does not hold a JSON object: copy or download it again")
    return values
