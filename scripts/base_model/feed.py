"""Scenes as batches of arrays, made by grain in the background."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grain.python as grain
import numpy as np
from drawings import Drawings
from scenes import draw, random_scene

TRAINING, VALIDATION = 0, 1
"""First number of a scene's seed; the second is its index."""


def batches(
    example: Callable[[int], dict[str, np.ndarray]], batch_size: int, first: int, last: int
) -> Iterator[dict[str, Any]]:
    """Batches of examples in order, prepared ahead on a thread.

    Args:
        example: makes the one of an index.
        batch_size: examples in a batch.
        first: number of the first batch.
        last: number after that of the last.

    Returns:
        an iterator over the stacked examples.
    """
    dataset = grain.MapDataset.range(first * batch_size, last * batch_size).map(example).batch(batch_size)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2 * batch_size)))


def pictures(drawings: Drawings, number: int, first: int, count: int) -> np.ndarray:
    """Pictures of scenes in order.

    Args:
        drawings: to take from.
        number: first of the seeds, such as `VALIDATION`.
        first: index of the first scene.
        count: of scenes.

    Returns:
        uint8 [count, h, w, 3].
    """
    return np.stack([draw(random_scene(drawings, (number, i)), drawings) for i in range(first, first + count)])


def random_crop(picture: np.ndarray, size: int, seed: tuple[int, ...]) -> np.ndarray:
    """A square part of a picture [h, w, 3], from a place that the seed says."""
    y, x = np.random.default_rng(seed).integers(0, np.asarray(picture.shape[:2]) - size + 1)
    return picture[y : y + size, x : x + size]


def to_float(pictures: Any) -> Any:
    """Bytes to [-1, 1] in float32, for numpy and JAX alike."""
    return pictures.astype(np.float32) / np.float32(127.5) - np.float32(1)
