"""What a container holds, before anything but its names and shapes has been read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ti_jax.errors import UserError

_LONGEST_TEXT = 1000  # letters
_MOST_NUMBERS = 2**24  # of an array; a word of SDXL has a few thousand


class Stored(NamedTuple):
    """An array in a file."""

    shape: tuple[int, ...]
    dtype: str
    """As the file calls it."""
    is_float: bool
    load: Callable[[], np.ndarray]
    """Its values."""


class Content(NamedTuple):
    """A file's entries."""

    entries: Mapping[str, Any]
    """`Stored` arrays, mappings of them, or what else is in a pickled file."""
    metadata: Mapping[str, str]


def with_scalars(entries: Mapping[str, Any]) -> Content:
    """Content of a file that has no metadata apart: its numbers and strings, such as A1111's `step`."""
    texts = {key: value for key, value in entries.items() if isinstance(value, str) and len(value) < _LONGEST_TEXT}
    steps = {key: str(value) for key, value in entries.items() if isinstance(value, int) and abs(value) < 2**63}
    return Content(entries, {**texts, **steps})


def vectors(stored: Stored, name: str) -> np.ndarray:
    """Reads the vectors of a word.

    Args:
        stored: an array of the shape [n, width], or [width] as old files have it.
        name: of the entry, for messages.

    Returns:
        float32 [n, width].

    Raises:
        UserError: if it is of another shape or type, or too large, or not finite. The message goes on from "FILE ".
    """
    if not stored.is_float:
        raise UserError(f"holds {stored.dtype} in {show(name)} where vectors should be")
    size = 1
    for side in stored.shape:
        size *= side
    if len(stored.shape) not in (1, 2) or size == 0:
        raise UserError(f"holds an array of shape {list(stored.shape[:8])} in {show(name)} where vectors should be")
    if size > _MOST_NUMBERS:
        raise UserError(f"holds {size} numbers in {show(name)}, more than any embedding: is it a model?")
    values = np.atleast_2d(stored.load()).astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"holds vectors that are not finite, in {show(name)}")
    return values


def show(name: str) -> str:
    """A name from a file, fit for one line on a terminal."""
    text = repr(name)[1:-1] if not name.isprintable() else name
    return text if len(text) <= 80 else f"{text[:77]}..."


def show_all(names: Mapping[str, Any]) -> str:
    """The first few names."""
    shown = [show(name) for name, _ in zip(names, range(5), strict=False)]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "nothing") + more
