"""Pictures of a run: the loss curve, previews, and the contact sheet that shows what the new word learned."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ti_jax.concepts.concept import Concept
from ti_jax.files import write_bytes
from ti_jax.generation import generate
from ti_jax.inversion.history import History
from ti_jax.inversion.result import Result
from ti_jax.pipeline import Pipeline

_SAMPLES = 4  # of each prompt; also the batch, so that previews and the contact sheet share one compiled program
_LABEL_HEIGHT = 24
_SMALLEST_CELL = 96  # pixels; smaller pictures are enlarged so that the labels fit


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
    word = result.concept.placeholder
    before, after = (draw(pipeline, c, prompts, steps=steps) for c in (result.initial, result.concept))
    rows: list[tuple[str, Sequence[np.ndarray] | np.ndarray]] = [("pictures", result.pictures[: 2 * _SAMPLES])]
    for i, prompt in enumerate(prompts):
        both = np.concatenate([x[i * _SAMPLES : (i + 1) * _SAMPLES] for x in (before, after)])
        rows.append((f"{prompt.replace('{}', word)}:  left, before the first step;  right, with the new word", both))
    cell = max(_SMALLEST_CELL, before.shape[1])
    sheet = Image.new("RGB", (2 * _SAMPLES * cell, len(rows) * (cell + _LABEL_HEIGHT)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for y, (label, images) in enumerate(rows):
        top = y * (cell + _LABEL_HEIGHT)
        pen.text((4, top + 3), label, fill="black", font=font)
        for x, image in enumerate(images):
            enlarged = Image.fromarray(image).resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(enlarged, (x * cell, top + _LABEL_HEIGHT))
    write_picture(sheet, path)


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
