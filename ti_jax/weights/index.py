"""What a folder in diffusers format says it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ti_jax.errors import UserError

PIPELINES = ("StableDiffusionPipeline",)
_COMPONENTS = {
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}
"""Classes that are implemented here; schedulers are judged by their own config, and the rest is not needed."""


def read_components(folder: Path, *, source: str) -> dict[str, str]:
    """The parts of a pipeline, from its `model_index.json`.

    Args:
        folder: of the pipeline.
        source: what the user called it, for messages.

    Returns:
        class names of `text_encoder`, `tokenizer`, `unet`, `vae` and `scheduler`.

    Raises:
        UserError: if there is no such file, or it names a pipeline or a part that is not implemented.
    """
    if not (folder / "model_index.json").exists():
        raise UserError(f"{source} is not a pipeline in diffusers format: it has no model_index.json")
    index = read_json(folder / "model_index.json")
    name = index.get("_class_name")
    if name not in PIPELINES:
        raise UserError(f"{source} is a {name}, which cannot be loaded: only {', '.join(PIPELINES)} can")
    found: dict[str, str] = {}
    for part in (*_COMPONENTS, "scheduler"):
        _, kind = index.get(part) or (None, None)
        if kind is None:
            raise UserError(f"{source} has no {part}: its model_index.json names none")
        if part in _COMPONENTS and kind not in _COMPONENTS[part]:
            raise UserError(f"{source}: its {part} is a {kind}, and only {' and '.join(_COMPONENTS[part])} can be read")
        found[part] = kind
    return found


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        UserError: if it is missing, or no JSON object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: copy or download the whole model") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): copy or download it again") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} does not hold a JSON object: copy or download it again")
    return values
