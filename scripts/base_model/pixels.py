"""What pixels say of a picture, without any network: the background's colour, and where a small object is."""

from __future__ import annotations

import numpy as np
from backgrounds import COLOURS
from scenes import PLACES, centre_of

_RING = 2
"""Pixels along the edges that are background in nearly every scene."""
_DIFFERENCE = 60
"""Least sum over channels by which a pixel of an object differs from the background."""
_LARGEST, _SMALLEST = 0.35, 0.005
"""Shares of the picture that a small object may cover."""
_SIDE = 0.36


def background_colour(picture: np.ndarray) -> str:
    """The colour, of `COLOURS`, that most of the edge's pixels are nearest to; uint8 [h, w, 3]."""
    names, values = list(COLOURS), np.asarray(list(COLOURS.values()))
    distances = np.abs(_edge(picture)[:, None] - values[None]).sum(axis=-1)
    return names[int(np.bincount(distances.argmin(axis=1), minlength=len(names)).argmax())]


def object_place(picture: np.ndarray) -> str | None:
    """The place, of `PLACES`, nearest to what differs from the background; None if that is no small thing.

    Args:
        picture: uint8 [h, w, 3], with a plain background.
    """
    background = np.median(_edge(picture), axis=0)
    differs = np.abs(picture.astype(int) - background).sum(axis=-1) > _DIFFERENCE
    if not _SMALLEST < differs.mean() < _LARGEST:
        return None
    rows, columns = np.nonzero(differs)
    y, x = ((np.median(values) + 0.5) / len(picture) for values in (rows, columns))
    return min(PLACES, key=lambda place: np.hypot(*np.subtract(centre_of(place, _SIDE), (x, y))))


def _edge(picture: np.ndarray) -> np.ndarray:
    """Pixels along the edges, int [n, 3]."""
    inside = np.zeros(picture.shape[:2], bool)
    inside[_RING:-_RING, _RING:-_RING] = True
    return picture[~inside].astype(int)
