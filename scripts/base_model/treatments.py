"""Picture treatments that prompts name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter, ImageOps


def _pixel_art(picture: Image.Image) -> Image.Image:
    small = picture.resize((16, 16), Image.Resampling.BOX).quantize(16).convert("RGB")
    return small.resize(picture.size, Image.Resampling.NEAREST)


def _sketch(picture: Image.Image) -> Image.Image:
    """Dark strokes on white where the brightness changes."""
    gray = np.asarray(picture.convert("L"), np.float32)
    padded = np.pad(gray, 1, mode="edge")
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    strokes = 255 - np.clip(1.6 * np.hypot(across, down), 0, 215)
    return Image.fromarray(strokes.astype(np.uint8)).convert("RGB")


def _mosaic(picture: Image.Image) -> Image.Image:
    """Tiles of 6 pixels with light joints between them."""
    size, tile = picture.width, 6
    number = -(-size // tile)
    tiles = picture.resize((number, number), Image.Resampling.BOX)
    large = np.asarray(tiles).repeat(tile, axis=0).repeat(tile, axis=1)[:size, :size]
    large[::tile] = large[:, ::tile] = 225
    return Image.fromarray(large)


TREATMENTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "pixel art": _pixel_art,
    "sketch": _sketch,
    "black and white": lambda picture: picture.convert("L").convert("RGB"),
    "mosaic": _mosaic,
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(2.0)),
    "upside down": ImageOps.flip,
}

FORMS: dict[str, tuple[str, ...]] = {
    "pixel art": ("pixel art of {}", "{} as pixel art", "a pixel art picture of {}", "{}, pixel art"),
    "sketch": ("a sketch of {}", "a pencil sketch of {}", "{} as a sketch", "{}, sketch"),
    "black and white": ("a black and white photo of {}", "a black and white picture of {}", "{} in black and white"),
    "mosaic": ("a mosaic of {}", "{} as a mosaic", "a mosaic picture of {}"),
    "blurred": ("a blurred photo of {}", "a blurred picture of {}", "{}, blurred", "a blurry photo of {}"),
    "upside down": ("{} upside down", "an upside down picture of {}", "{}, upside down"),
}
"""Captions of a treated picture; the braces stand for what is in it."""
