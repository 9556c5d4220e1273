"""The drawings that scenes are made of: who drew them, what they show, and which are held out."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 80
"""Pixels of the longer side of a drawing in memory; it is larger in no scene."""
HOLDOUT: dict[str, Any] = json.loads((Path(__file__).parent / "holdout.json").read_text())
HELD_OUT_CONCEPTS = frozenset(HOLDOUT["concepts"])
HELD_OUT_CHARACTERS = frozenset(HOLDOUT["characters"]["codepoints"])
HELD_OUT_STYLES = frozenset(HOLDOUT["styles"])
_HELD_OUT_NAMES = frozenset(HOLDOUT["concepts"].values())
_FAINT = 12
"""Opacity, of 255, under which a pixel is no part of a drawing."""
_MOST_MEANINGS = 3
"""Concepts that a keyword may stand for; one that stands for more says too little."""


@dataclass(frozen=True)
class Concept:
    """What a drawing shows.

    Args:
        code: code points, such as `1f34e`.
        name: such as `red apple`.
        keywords: other words for it, each of few meanings.
    """

    code: str
    name: str
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Drawings:
    """Drawings by style and code, each cut to its bounding box, and the concepts they show."""

    images: Mapping[tuple[str, str], Image.Image]
    concepts: Mapping[str, Concept]

    @functools.cached_property
    def styles(self) -> dict[str, list[str]]:
        """By code, in order, the styles in which there is a drawing of it, also in order."""
        found: dict[str, list[str]] = {}
        for code, style in sorted((code, style) for style, code in self.images):
            found.setdefault(code, []).append(style)
        return found


def is_held_out(style: str, code: str) -> bool:
    """Whether a drawing must never be seen in training."""
    return style in HELD_OUT_STYLES or code in HELD_OUT_CONCEPTS | HELD_OUT_CHARACTERS


def training_part(drawings: Drawings) -> Drawings:
    """The drawings that may be seen in training."""
    images = {key: image for key, image in drawings.images.items() if not is_held_out(*key)}
    return _with(drawings, images)


def held_out_part(drawings: Drawings) -> Drawings:
    """The drawings that are kept for tests: held-out concepts in every style, and everything in the held-out styles."""
    images = {key: image for key, image in drawings.images.items() if is_held_out(*key)}
    return _with(drawings, images)


def _with(drawings: Drawings, images: Mapping[tuple[str, str], Image.Image]) -> Drawings:
    codes = {code for _, code in images}
    return Drawings(images, {code: c for code, c in drawings.concepts.items() if code in codes})


def core_concepts(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Concept]:
    """Concepts that are neither variants of others nor like text, with keywords that mean something."""
    core = {code: row for code, row in table.items() if row["variant"] is None and not row["text_like"]}
    meanings = Counter(word for row in core.values() for word in {*row["keywords"], row["name"]})
    names = {row["name"] for row in core.values()}
    return {
        code: Concept(code, _plain(row["name"]), tuple(_useful(row["keywords"], meanings, names)))
        for code, row in core.items()
    }


def _useful(keywords: Iterable[str], meanings: Mapping[str, int], names: set[str]) -> list[str]:
    """Words of few meanings that name nothing else, in particular nothing that is held out."""
    return [
        word
        for word in map(_plain, keywords)
        if meanings[word] <= _MOST_MEANINGS and word not in names | _HELD_OUT_NAMES and word.isascii()
    ]


def _plain(name: str) -> str:
    """A name in lower case, without the marks that a caption would not have."""
    return name.lower().replace("’", "'").replace(":", "").replace("“", "").replace("”", "")


def cut(image: Image.Image) -> Image.Image:
    """A drawing without its margin, its longer side `SIDE` pixels at most; transparent colours are premultiplied.

    Margins differ between the hands; left on, they would be part of what a style is.
    """
    premultiplied = image.convert("RGBA").convert("RGBa")
    box = premultiplied.getchannel("a").point([0] * _FAINT + [255] * (256 - _FAINT)).getbbox()
    drawing = premultiplied.crop(box)
    scale = min(1.0, SIDE / max(drawing.size))
    size = (max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale)))
    return drawing.resize(size, Image.Resampling.BICUBIC) if scale < 1 else drawing
