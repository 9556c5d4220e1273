"""A1111's preview pictures, which carry the embedding in the text chunk `sd-ti-embedding`.

Source: AUTOMATIC1111/stable-diffusion-webui, modules/textual_inversion/image_embedding.py. The pixels at its left and
right edge hold the same once more, which is not read.
"""

from __future__ import annotations

import base64
import functools
import json
import warnings
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from ti_jax.concepts.formats.content import Content, Stored, with_scalars
from ti_jax.errors import UserError

_CHUNK = "sd-ti-embedding"
_LONGEST = 2**23  # bytes of text; 75 vectors of SD 2 take two million


def looks_like(start: bytes) -> bool:
    """Whether the first bytes of a file are of this format."""
    return start.startswith(b"\x89PNG\r\n\x1a\n")


def read(file: epath.Path) -> Content:
    """The embedding in a picture.

    Raises:
        UserError: if there is none, or it is damaged. The message goes on from "FILE ".
    """
    try:
        with file.open("rb") as stream, warnings.catch_warnings(action="ignore"):
            image = Image.open(stream, formats=["PNG"])
            text = image.info.get(_CHUNK)  # pixels are not decoded
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot be read as a picture ({type(error).__name__})") from error
    if text is None:
        raise UserError("is a picture without an embedding in its text; sites that convert pictures drop it")
    if len(text) > _LONGEST:
        raise UserError("holds a text longer than any embedding")
    try:
        content = json.loads(base64.b64decode(text), object_hook=_tensor)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"holds a damaged embedding ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise UserError("holds no embedding layout we know")
    return with_scalars(content)


def _tensor(value: dict[str, Any]) -> Any:
    if "TORCHTENSOR" not in value:
        return value
    try:
        array = np.array(value["TORCHTENSOR"], np.float64)
    except OverflowError as error:
        raise ValueError("a number is too large") from error
    return Stored(array.shape, "float64", True, functools.partial(np.asarray, array))
