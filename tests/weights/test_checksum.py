"""The checksum of a parameter, on host and device, against its formula."""

import jax.numpy as jnp
import numpy as np
import pytest

from ti_jax.weights import checksum


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_checksum(dtype):
    array = jnp.asarray(np.random.default_rng(0).normal(size=(70, 90)) * 50, dtype)
    value = checksum.checksum(array)
    assert value == int(checksum._checksum_on_device(array))
    assert checksum.checksum(array[::-1]) != value
    bits = np.asarray(array).view(f"u{array.dtype.itemsize}").ravel()
    assert value == sum(int(b) * (2 * i + 1) for i, b in enumerate(bits)) % 2**32
