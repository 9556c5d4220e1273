"""Scenes as batches of arrays, made by grain in the background."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import absl.flags
import grain.python as grain
import numpy as np
from drawings import Drawings
from scenes import draw, random_scene

TRAINING, VALIDATION = 0, 1
"""First number of a scene's seed; the second is its index."""
Example = dict[str, np.ndarray]


@dataclass(frozen=True)
class Feed:
    """How a stage gets its batches.

    Args:
        batch_size: examples in a batch.
        pool: batches that are in memory at a time.
        passes: how often each of them is used, every time in another order, before others take their place: with many,
            drawing and encoding examples takes little of the time.
        workers: processes that make examples; a thread of this one if 0.
    """

    batch_size: int
    pool: int = 1
    passes: int = 1
    workers: int = 0

    def batches(
        self, example: Callable[[int], Example], first: int, last: int, prepare: Callable[[Example], Any] = lambda x: x
    ) -> Iterator[Any]:
        """Batches for the steps `first` to `last`, the same for a step wherever a run begins.

        Args:
            example: makes the one of an index, from 0 on.
            first: number of the first step.
            last: number after that of the last.
            prepare: what is done with a batch, stacked examples, when it comes into the pool.

        Returns:
            an iterator over what `prepare` gave; its end may be later.
        """
        turn = self.pool * self.passes
        made = self._made(example, first // turn * self.pool, -(-last // turn) * self.pool)
        for number in range(first // turn, -(-last // turn)):
            pool = [prepare(batch) for batch in itertools.islice(made, self.pool)]
            orders = (np.random.default_rng((number, i)).permutation(self.pool) for i in range(self.passes))
            order = [int(i) for order in orders for i in order]
            yield from (pool[i] for i in order[max(first - number * turn, 0) :])

    def _made(self, example: Callable[[int], Example], first: int, last: int) -> Iterator[Example]:
        """Batches in order, made ahead."""
        dataset = grain.MapDataset.range(first * self.batch_size, last * self.batch_size).map(example)
        batched = dataset.batch(self.batch_size)
        if self.workers == 0:
            return iter(batched.to_iter_dataset(grain.ReadOptions(1, prefetch_buffer_size=2 * self.batch_size)))
        absl.flags.FLAGS.mark_as_parsed()  # grain's processes ask for them
        one_thread, ahead = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0), self.pool // self.workers + 1
        processes = grain.MultiprocessingOptions(num_workers=self.workers, per_worker_buffer_size=ahead)
        return iter(batched.to_iter_dataset(one_thread).mp_prefetch(processes))


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
