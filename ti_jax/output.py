"""PNG files that say how they were made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ti_jax.files import write_bytes


def write_pictures(
    folder: epath.PathLike,
    images: UInt8[np.ndarray, "n h w 3"],
    prompts: Sequence[str],
    settings: Mapping[str, Any],
) -> list[str]:
    """Writes `0000.png`, `0001.png`, ...; numbers go on after those that are there, so nothing is overwritten.

    Args:
        folder: local or remote, made if need be.
        images: what to write.
        prompts: one a picture.
        settings: what else was asked for, JSON values; `negative_prompt`, `steps`, `sampler`, `guidance`, `seed` and
            `model` are read. They are kept whole as JSON in the text chunk `ti_jax`, and as A1111 reads them in
            `parameters`.

    Returns:
        the files, in order.
    """
    path = epath.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    # A bucket has no folder before there is something in it.
    there = path.iterdir() if path.exists() else []
    taken = [int(p.stem) for p in there if p.suffix == ".png" and p.stem.isdigit()]
    first = max(taken, default=-1) + 1
    files: list[str] = []
    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        text = PngInfo()
        text.add_itxt("parameters", _a1111(prompt, settings, image.shape))
        text.add_itxt("ti_jax", json.dumps({**settings, "prompt": prompt, "index": i}))
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", pnginfo=text)
        file = path / f"{first + i:04d}.png"
        write_bytes(file, buffer.getvalue())
        files.append(str(file))
    return files


def _a1111(prompt: str, settings: Mapping[str, Any], shape: tuple[int, ...]) -> str:
    negative = f"\nNegative prompt: {settings['negative_prompt']}" if settings["negative_prompt"] else ""
    return (
        f"{prompt}{negative}\nSteps: {settings['steps']}, Sampler: {settings['sampler']}, "
        f"CFG scale: {settings['guidance']}, Seed: {settings['seed']}, Size: {shape[1]}x{shape[0]}, "
        f"Model: {settings['model']}"
    )
