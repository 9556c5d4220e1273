"""Pictures of fixed prompts, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ti_jax.diffusion.schedule import NoiseSchedule
from ti_jax.generation import generate
from ti_jax.pipeline import Pipeline, Precision

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS = (
    "a red apple on a blue background",
    "a small rabbit face in the top left",
    "a pizza and a bicycle",
    "a 3d render of a penguin",
    "a line icon of a key",
    "a noto emoji of a frog on a pink background",
    "two strawberries on a white background",
    "pixel art of a mushroom",
    "a lion on the grass",
    "a rocket at night",
    "a sailboat in the water",
    "a sketch of a teapot",
    "a twitter emoji of an owl on an orange background",
    "a small balloon in the bottom right on a green background",
    "many stars on a black background",
    "a photo of a hamburger",
)


def sample_pictures(
    networks: Any,
    vae: Any,
    tokenizer: PreTrainedTokenizerBase,
    schedule: NoiseSchedule,
    prompts: Sequence[str] = PROMPTS,
) -> np.ndarray:
    """A picture of each prompt; uint8 [n, h, w, 3]."""
    pipeline = Pipeline(
        networks={"text_encoder": networks.text_encoder, "unet": networks.unet, "vae": vae},
        tokenizers={"text_encoder": tokenizer},
        schedule=schedule,
        source="in training",
        precision=Precision("float32", "float32", "float32"),
    )
    return generate(pipeline, prompts, steps=25, guidance=4.0)


def contact_sheet(pictures: np.ndarray, *, columns: int = 8) -> Image.Image:
    """Pictures [n, h, w, 3] in rows, the last of which may not be full."""
    n, h, w, _ = pictures.shape
    rows = -(-n // columns)
    sheet = np.full((rows * columns, h, w, 3), 255, np.uint8)
    sheet[:n] = pictures
    sheet = sheet.reshape(rows, columns, h, w, 3).swapaxes(1, 2).reshape(rows * h, columns * w, 3)
    return Image.fromarray(sheet)
