"""Pictures as an image tower wants them: what transformers' `CLIPImageProcessor` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from ti_jax.errors import UserError

# OpenAI's (transformers `image_utils.py`).
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


@dataclass(frozen=True)
class Preprocessing:
    """Resized by the shorter side, cut to the middle square, and normalised by channel."""

    shorter_side: int
    """Pixels."""
    side: int
    """Of the square in pixels, at most `shorter_side`."""
    resample: int
    """Pillow's number of the filter."""
    rescale: float
    """Factor that bytes are multiplied by."""
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Reads a `preprocessor_config.json`, of today's form or of that before transformers 4.25.

        Raises:
            UserError: if it leaves out a step, or cuts out anything but a square that is there.
        """
        missing = [step for step in _STEPS if not values.get(step, True)]
        shorter_side = _side(values.get("size", 224), "shortest_edge")
        side = _side(values.get("crop_size", 224), "height", "width")
        if missing or shorter_side is None or side is None or side > shorter_side:
            reason = (
                f"{missing[0]} is false" if missing else f"size {values.get('size')}, crop {values.get('crop_size')}"
            )
            raise UserError(f"pictures would be prepared for CLIP in a way that is not supported: {reason}")
        return cls(
            shorter_side=shorter_side,
            side=side,
            resample=int(values.get("resample", Image.Resampling.BICUBIC)),
            rescale=float(values.get("rescale_factor", 1 / 255)),
            mean=tuple(values.get("image_mean", _MEAN)),
            deviation=tuple(values.get("image_std", _DEVIATION)),
        )

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "side side 3"]:
        """Prepares one picture."""
        image = Image.fromarray(picture)
        shorter = min(image.size)
        width, height = (self.shorter_side * length // shorter for length in image.size)
        image = image.resize((width, height), Image.Resampling(self.resample))
        top, left = (height - self.side) // 2, (width - self.side) // 2
        pixels = np.asarray(image)[top : top + self.side, left : left + self.side].astype(np.float32)
        mean, deviation = (np.asarray(values, np.float32) for values in (self.mean, self.deviation))
        return (pixels * np.float32(self.rescale) - mean) / deviation


def _side(value: Any, *names: str) -> int | None:
    """A side, given as a number or under names that must agree; None if it is not given so."""
    if isinstance(value, int):
        return value
    found = {value.get(name) for name in names} if isinstance(value, Mapping) and set(value) == set(names) else {None}
    return found.pop() if len(found) == 1 else None
