"""A few drawings of simple shapes, made here, and the scripts on the path."""

import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts/base_model"
sys.path.insert(0, str(SCRIPTS))  # as when one of them is run

SHAPES = {"1f34e": "red apple", "1f511": "key", "1f427": "penguin", "1f355": "pizza", "2b50": "star", "1f40c": "snail"}
STYLES = ("fluent-3d", "fluent-flat", "fluent-mono", "noto", "twemoji", "emojitwo", "blob")
HELD_OUT = {"1f415": "dog", "1f63a": "grinning cat"}


@pytest.fixture(scope="session")
def drawings():
    """All of them: six concepts, and two that are held out, in six styles and one that is held out."""
    from drawings import Concept, Drawings, cut

    names = SHAPES | HELD_OUT
    images = {}
    for row, code in enumerate(names):
        for column, style in enumerate(STYLES):
            canvas = Image.new("RGBA", (96, 96))
            brush = ImageDraw.Draw(canvas)
            colour = (0, 0, 0) if style == "fluent-mono" else (30 * row + 20, 255 - 30 * column, 60 * (row % 4))
            brush.ellipse((8, 10 + row, 88 - row, 86), fill=(*colour, 255))
            brush.rectangle((40, 20, 50 + 3 * column, 40 + 3 * row), fill=(*colour[::-1], 255))
            images[style, code] = cut(canvas)
    return Drawings(images, {code: Concept(code, name, (f"{name} thing",)) for code, name in names.items()})


@pytest.fixture(scope="session")
def seen(drawings):
    """Those that may be seen in training."""
    from drawings import training_part

    return training_part(drawings)


@pytest.fixture(scope="session")
def tokenizer(seen, tmp_path_factory):
    """Trained on a few captions."""
    from words import load_or_train_tokenizer

    return load_or_train_tokenizer(seen, tmp_path_factory.mktemp("words") / "tokenizer", captions=200)
