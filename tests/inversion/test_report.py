"""What is where on the contact sheet, by pictures of one colour each; nothing is drawn by a model."""

from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from ti_jax.concepts.concept import Concept
from ti_jax.inversion import report
from ti_jax.inversion.history import History
from ti_jax.inversion.result import Result
from ti_jax.pipeline import Pipeline

PROMPTS = ["{}", "a photo of {}", "an old oil painting of {}"]  # each takes more ink to write than the one before
SAMPLES = 4
SIZES = [32, 128, 300]  # of what is drawn: enlarged, as it is, and made smaller


def _concept():
    return Concept("<fox-and-hare>", {"text_encoder": np.zeros((1, 2), np.float32)}, {"initializer": "cat"})


def _flat(colour, side):
    return np.broadcast_to(np.array(colour, np.uint8), (side, side, 3))


def _box(sheet, colour):
    """Left, top, right and bottom of all that has a colour, which must fill the square between."""
    ys, xs = np.nonzero((sheet == colour).all(axis=-1))
    assert len(xs), f"{colour} is not on the sheet"
    left, top, right, bottom = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    assert len(xs) == (right - left) * (bottom - top)
    assert right - left == bottom - top
    return left, top, right, bottom


def _ink(sheet, left, top, *, right):
    """How many pixels are dark in the white strip above a row."""
    dark = sheet[:top, left:right].max(axis=-1) < 128
    white = (sheet[:top, left:right] == sheet[:top, left:right, :1]).all(axis=(1, 2))  # no colour in the whole line
    above = top - np.argmin(white[::-1])
    return dark[above:].sum()


@pytest.mark.parametrize("side", SIZES)
def test_contact_sheet(tmp_path, monkeypatch, side):
    initial, learned, best = _concept(), _concept(), _concept()
    pictures = [_flat((10 + 40 * i, 255, 0), 48) for i in range(5)]
    result = Result(learned, best, initial, History(), pictures, 0.0, [])

    def colour(concept, prompt, sample):
        return {id(initial): 50, id(learned): 150}[id(concept)], 10 + 60 * prompt, 10 + 60 * sample

    def draw(pipeline, concept, prompts, *, steps):
        assert steps == 7
        order = [PROMPTS.index(prompt) for prompt in prompts]
        return np.stack([_flat(colour(concept, prompt, i), side) for prompt in order for i in range(SAMPLES)])

    monkeypatch.setattr(report, "draw", draw)
    report.contact_sheet(Mock(spec=Pipeline), result, PROMPTS, tmp_path / "sheet.png", steps=7)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))

    shown = np.array([_box(sheet, picture[0, 0]) for picture in pictures])
    drawn = np.array(
        [
            [[_box(sheet, colour(concept, prompt, i)) for i in range(SAMPLES)] for prompt in range(len(PROMPTS))]
            for concept in (initial, learned)
        ]
    )  # [word, prompt, sample, side of the box]
    middle = sheet.shape[1] / 2
    assert (drawn[0, ..., 2] <= middle).all()
    assert (drawn[1, ..., 0] >= middle).all()
    assert (drawn[:, 1:, :, 1] > drawn[:, :-1, :, 3]).all()  # prompt below prompt, with room for the text between
    assert (drawn[..., 1] == drawn[:1, :, :1, 1]).all()  # all that one prompt gives is in one row
    assert (drawn[:, :, 1:, 0] == drawn[:, :, :-1, 2]).all()  # sample beside sample
    ink = [
        [_ink(sheet, *drawn[word, prompt, 0, :2], right=drawn[word, prompt, -1, 2]) for prompt in range(len(PROMPTS))]
        for word in range(2)
    ]
    assert (np.diff(ink, axis=1) > 0).all()  # above each row is its own prompt
    assert (np.diff(ink, axis=0) > 0).all()  # with "cat" on the left and the longer new word on the right
    assert (shown[:, 1] == shown[0, 1]).all()
    assert (shown[:, 3] < drawn[..., 1].min()).all()
    assert (shown[1:, 0] == shown[:-1, 2]).all()
