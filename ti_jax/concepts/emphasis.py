"""Weights in prompts, as A1111 writes them.

`(word)` weighs 1.1, `(word:1.3)` 1.3, `[word]` 1 / 1.1; weights multiply where brackets nest, `\\(` is no weight but a
bracket, and `BREAK` goes on in the next chunk. Source: AUTOMATIC1111/stable-diffusion-webui, modules/prompt_parser.py,
`parse_prompt_attention`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from ti_jax.concepts.prompts import whole_word

_ROUND, _SQUARE = 1.1, 1 / 1.1
_TOKENS = r"\\[()\[\]\\]|\\|\(|\[|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|\)|\]|:"
_LETTER = r"[^\\()\[\]:]"
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


class Piece(NamedTuple):
    """Part of a prompt."""

    text: str
    weight: float
    """1 is no emphasis."""
    breaks: bool = False
    """Whether a chunk begins after it, of which it is no part."""


def parse_emphasis(prompt: str, words: Iterable[str] = ()) -> list[Piece]:
    """The parts of a prompt with their weights.

    Args:
        prompt: any text; brackets without a partner weigh all that is after them.
        words: placeholders, whose own brackets mean nothing.

    Returns:
        at least one part; neighbours of the same weight are one.
    """
    protected = "|".join(map(whole_word, sorted(words, key=len, reverse=True))) or "(?!)"
    # Text ends where a word begins, which may have brackets further on.
    pattern = re.compile(f"(?P<word>{protected})|{_TOKENS}|(?:(?!{protected}){_LETTER})+", re.IGNORECASE)
    pieces: list[Piece] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def weigh(first: int, factor: float) -> None:
        pieces[first:] = [piece._replace(weight=piece.weight * factor) for piece in pieces[first:]]

    for match in pattern.finditer(prompt):
        text, weight = match.group(), match["weight"]
        if match["word"]:
            pieces.append(Piece(text, 1.0))
        elif text in opened:
            opened[text].append(len(pieces))
        elif weight and opened["("] and _number(weight) is not None:
            weigh(opened["("].pop(), _number(weight) or 0.0)
        elif text == ")" and opened["("]:
            weigh(opened["("].pop(), _ROUND)
        elif text == "]" and opened["["]:
            weigh(opened["["].pop(), _SQUARE)
        elif text.startswith("\\"):
            pieces.append(Piece(text[1:], 1.0))
        else:
            pieces += _broken(text)
    for bracket, factor in (("(", _ROUND), ("[", _SQUARE)):
        for first in opened[bracket]:
            weigh(first, factor)
    return _joined(pieces) or [Piece("", 1.0)]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _broken(text: str) -> list[Piece]:
    """Text at the places where it says BREAK."""
    first, *others = _BREAK.split(text)
    return [Piece(first, 1.0), *(piece for other in others for piece in (Piece("", 1.0, True), Piece(other, 1.0)))]


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of the same weight as one."""
    groups = groupby(pieces, key=lambda piece: (piece.breaks, piece.weight))
    return [Piece("".join(piece.text for piece in group), weight, breaks) for (breaks, weight), group in groups]
