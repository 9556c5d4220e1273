"""Tiles cover what they are tiles of."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch_pair import draws

from ti_jax.errors import UserError
from ti_jax.models.tiling import over_tiles, overlapping


@given(st.integers(1, 12), st.data(), st.integers(1, 4))
def test_weights_add_up_to_one(tile, data, factor):
    length, overlap = data.draw(st.integers(tile, 60)), data.draw(st.integers(0, tile - 1))
    starts, weights = overlapping(length, tile, overlap, factor)
    assert starts[0] == 0
    assert starts[-1] == length - tile
    assert np.all(np.diff(starts) > 0)
    assert np.all(starts[:-1] + tile - starts[1:] >= overlap)
    total = np.zeros(factor * length)
    for start, weight in zip(starts, weights, strict=True):
        assert np.all(weight > 0)
        total[factor * start : factor * (start + tile)] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize("size", [(13, 9), (4, 4), (3, 20), (1, 1)])
def test_pixel_by_pixel_functions_do_not_notice(size):
    x = draws(*size, 3)
    twice = np.repeat(np.repeat(x[..., :2], 2, axis=0), 2, axis=1)

    def enlarge(tile):
        return jnp.repeat(jnp.repeat(tile[..., :2], 2, axis=0), 2, axis=1)

    result = over_tiles(enlarge, jnp.asarray(x), factor=2, tile=4, overlap=1)
    np.testing.assert_allclose(result, twice, rtol=0, atol=1e-6)


@pytest.mark.parametrize("overlap", [-1, 4])
def test_overlap_out_of_range(overlap):
    with pytest.raises(UserError, match=f"tiles of 4 cannot overlap by {overlap}"):
        over_tiles(lambda x: x, jnp.zeros((8, 8, 1)), factor=1, tile=4, overlap=overlap)
