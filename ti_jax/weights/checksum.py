"""An exact checksum of an array, the same on every device."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array


def checksum(array: Array) -> int:
    """The sum of all bit patterns times odd numbers that tell positions apart, modulo 2**32.

    Integers that wrap around give the same sum in any order, so the result does not depend on the device.

    Args:
        array: of any shape and a type of 8, 16 or 32 bits; where it is on an accelerator only the sum leaves it.

    Returns:
        a number in [0, 2**32).
    """
    if all(device.platform == "cpu" for device in array.devices()):
        return int(_checksum(np.asarray(array)))  # no copy, and no compilation for each shape
    return int(_checksum_on_device(array))


def _checksum(array: Any) -> Any:
    xp = array.__array_namespace__()
    bits = array.ravel().view(f"uint{8 * array.dtype.itemsize}").astype("uint32")
    return xp.sum(bits * xp.arange(1, 2 * bits.size, 2, dtype="uint32"), dtype="uint32")


_checksum_on_device = jax.jit(_checksum)
