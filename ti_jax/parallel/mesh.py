"""The devices of this host as a mesh of concepts and data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

logger = logging.getLogger(__name__)


def make_mesh(slots: int, batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with axes `concepts` and `data` over as many devices as the work can be divided over.

    Slots are divided first, since concepts need no communication; what is left over divides each concept's batch, which
    costs one mean over a few hundred floats a step.

    Args:
        slots: how many concepts are learned at a time.
        batch_size: examples of one concept in one pass.
        devices: to choose from; those of this host if None.

    Returns:
        a mesh whose `concepts` axis divides `slots`, and whose `data` axis divides `batch_size`.
    """
    devices = jax.local_devices() if devices is None else devices
    concepts = _largest_divisor(slots, len(devices))
    data = _largest_divisor(batch_size, len(devices) // concepts)
    if concepts * data < len(devices):
        logger.warning(
            "%d of %d devices have nothing to do: %d slots of batch size %d cannot be divided over all; "
            "a number of slots that is a multiple of %d would use them",
            len(devices) - concepts * data,
            len(devices),
            slots,
            batch_size,
            len(devices),
        )
    return Mesh(np.array(devices[: concepts * data]).reshape(concepts, data), ("concepts", "data"))


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, limit + 1) if number % divisor == 0)
