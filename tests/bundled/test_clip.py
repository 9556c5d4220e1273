"""The bundled CLIP, which transformers opens too."""

import numpy as np
import pytest
import torch
import transformers

import ti_jax
from ti_jax.weights.hub import BUNDLED

FOLDER = BUNDLED / "tiny/clip"
TEXTS = ["a red apple on a blue background", "a small key in the top left"]


@pytest.fixture(scope="module")
def clip():
    return ti_jax.load_clip("tiny")


def test_transformers_gives_the_same_vectors(clip):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 80, 64, 3), dtype=np.uint8)
    model = transformers.CLIPModel.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokens = transformers.CLIPTokenizer.from_pretrained(FOLDER)(TEXTS, padding="max_length", return_tensors="pt")
    pixels = transformers.CLIPImageProcessorPil.from_pretrained(FOLDER)(list(pictures), return_tensors="pt")
    with torch.no_grad():
        theirs = model(input_ids=tokens.input_ids, pixel_values=pixels.pixel_values)
    np.testing.assert_allclose(clip.image_vectors(list(pictures)), theirs.image_embeds, rtol=0, atol=1e-5)
    np.testing.assert_allclose(clip.text_vectors(TEXTS), theirs.text_embeds, rtol=0, atol=1e-5)


def test_it_knows_colours(clip):
    colours = {"white": (255, 255, 255), "black": (0, 0, 0), "red": (220, 30, 40), "blue": (30, 80, 220)}
    pictures = [np.full((64, 64, 3), value, np.uint8) for value in colours.values()]
    similarity = clip.image_vectors(pictures) @ clip.text_vectors([f"a star on a {c} background" for c in colours]).T
    assert list(similarity.argmax(axis=1)) == [0, 1, 2, 3]


def test_it_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 6e6
