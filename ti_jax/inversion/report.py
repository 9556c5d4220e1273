"""Pictures of a run: the loss curve, previews, and the contact sheet that shows what the new word learned."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ti_jax.concepts.concept import Concept
from ti_jax.concepts.initialization import is_path
from ti_jax.files import write_bytes
from ti_jax.generation import generate
from ti_jax.inversion.history import History
from ti_jax.inversion.result import Result
from ti_jax.pipeline import Pipeline

_SAMPLES = 4  # of each prompt; also the batch, so that previews and the contact sheet share one compiled program
# Side of a picture on the contact sheet in pixels; others are scaled, so that labels fit and the file stays small.
_SMALLEST_CELL, _LARGEST_CELL = 96, 256


def draw(pipeline: Pipeline, concept: Concept, prompts: Sequence[str], *, steps: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Samples of the preview prompts, always from the same initial noise.

    Args:
        pipeline: the frozen model.
        concept: whose word is put in the place of `{}`.
        prompts: which.
        steps: of the sampler.

    Returns:
        four pictures of each prompt, prompt by prompt.
    """
    rows = [
        generate(
            pipeline,
            [prompt.replace("{}", concept.placeholder)],
            concepts=[concept],
            seed=0,
            steps=steps,
            num_images=_SAMPLES,
            batch_size=_SAMPLES,
        )
        for prompt in prompts
    ]
    return np.concatenate(rows)


def tile(images: UInt8[np.ndarray, "n h w 3"], rows: int, path: epath.PathLike) -> None:
    """Writes pictures as a grid.

    Args:
        images: row by row.
        rows: how many.
        path: of the PNG to write.
    """
    n, h, w, _ = images.shape
    grid = images.reshape(rows, n // rows, h, w, 3).transpose(0, 2, 1, 3, 4).reshape(rows * h, n // rows * w, 3)
    write_picture(Image.fromarray(grid), path)


def contact_sheet(
    pipeline: Pipeline, result: Result, prompts: Sequence[str], path: epath.PathLike, *, steps: int
) -> None:
    """Writes what the word was learned from, and what prompts give with the initial and with the new word.

    Args:
        pipeline: the frozen model.
        result: of the inversion.
        prompts: what is drawn; `{}` is the word.
        path: of the PNG to write.
        steps: of the sampler.
    """
    before, after = (draw(pipeline, c, prompts, steps=steps) for c in (result.initial, result.concept))
    cell = min(max(before.shape[1], _SMALLEST_CELL), _LARGEST_CELL)
    label, gap = cell // 4, cell // 8
    half = _SAMPLES * cell
    sheet = Image.new("RGB", (2 * half + gap, (1 + len(prompts)) * (label + cell)), "white")
    pictures = result.pictures[: 2 * _SAMPLES]
    _paste_row(sheet, (0, 0), cell, f"{len(result.pictures)} pictures of {result.concept.placeholder}", pictures)
    words = (_initial_word(result), result.concept.placeholder)
    for x, word, images in zip((0, half + gap), words, (before, after), strict=True):
        for y, prompt in enumerate(prompts):
            row = list(images[y * _SAMPLES : (y + 1) * _SAMPLES])
            _paste_row(sheet, (x, (y + 1) * (label + cell)), cell, prompt.replace("{}", word), row)
    write_picture(sheet, path)


def _initial_word(result: Result) -> str:
    """What the left half of the sheet is drawn with; in brackets if it is no word."""
    initializer = result.initial.metadata["initializer"]
    is_word = initializer != "random" and not is_path(initializer)
    return initializer if is_word else f"[{epath.Path(initializer).name}]"


def _paste_row(
    sheet: Image.Image, corner: tuple[int, int], cell: int, label: str, images: Sequence[UInt8[np.ndarray, "h w 3"]]
) -> None:
    """A line of text and pictures below it; what does not fit in its half of the sheet is cut off."""
    x, y = corner
    strip = Image.new("RGB", (max(_SAMPLES, len(images)) * cell, cell // 4), "white")
    font = ImageFont.load_default(cell // 7)
    ImageDraw.Draw(strip).text((cell // 24, cell // 8), label, fill="black", font=font, anchor="lm")
    sheet.paste(strip, corner)
    for i, image in enumerate(images):
        scaled = Image.fromarray(image).resize((cell, cell), Image.Resampling.BICUBIC)
        sheet.paste(scaled, (x + i * cell, y + cell // 4))


def loss_curve(history: History, path: epath.PathLike) -> None:
    """Writes the loss of every step, the loss on the fixed set, and the norm, against the steps."""
    from matplotlib.figure import Figure  # slow to import, and only needed to draw

    figure = Figure(figsize=(8, 4), layout="constrained")
    left = figure.add_subplot()
    steps = np.arange(1, history.steps + 1)
    left.plot(steps, history.loss, color="tab:blue", alpha=0.3, label="loss")
    left.plot(list(history.fixed_loss), list(history.fixed_loss.values()), color="tab:blue", label="loss, fixed set")
    left.set(xlabel="step", ylabel="mean squared error")
    right = left.twinx()
    right.plot(steps, history.norm, color="tab:orange", label="norm / vocabulary's")
    right.set_ylabel("norm of the vectors / vocabulary's median")
    figure.legend(loc="outside upper center", ncols=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_bytes(path, buffer.getvalue())


def write_picture(image: Image.Image, path: epath.PathLike) -> None:
    """Writes a PNG whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())
