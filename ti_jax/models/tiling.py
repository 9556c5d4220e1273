"""Large pictures tile by tile, blended where tiles overlap."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ti_jax.errors import UserError


def over_tiles(
    function: Callable[[Array], Array], x: Float[Array, "h w c"], *, factor: int, tile: int, overlap: int
) -> Float[Array, "h2 w2 c2"]:
    """A function of a feature map, applied to one tile after the other.

    Args:
        function: from [h, w, c] to [factor * h, factor * w, c2], of any size.
        x: the feature map.
        factor: by which the function enlarges.
        tile: height and width of a tile, in pixels of `x`; smaller maps are one tile.
        overlap: least pixels of `x` that neighbouring tiles share, less than `tile`.

    Returns:
        the tiles' results, in float32, each fading out linearly over what it shares with its neighbour.

    Raises:
        UserError: if tiles would not advance.
    """
    if not 0 <= overlap < tile:
        raise UserError(f"tiles of {tile} cannot overlap by {overlap}: an overlap is 0 or more and less than the tile")
    (h, w, channels), (rows, columns) = x.shape, (min(tile, side) for side in x.shape[:2])
    row_starts, row_weights = overlapping(h, rows, overlap, factor)
    column_starts, column_weights = overlapping(w, columns, overlap, factor)
    tops, lefts = np.indices((len(row_starts), len(column_starts))).reshape(2, -1)

    def add(canvas: Array, place: tuple[Array, ...]) -> tuple[Array, None]:
        top, left, down, across = place
        result = function(jax.lax.dynamic_slice(x, (top, left, 0), (rows, columns, channels)))
        faded = result.astype(jnp.float32) * down[:, None, None] * across[None, :, None]
        corner = (factor * top, factor * left, 0)
        below = jax.lax.dynamic_slice(canvas, corner, faded.shape)
        return jax.lax.dynamic_update_slice(canvas, below + faded, corner), None

    result = jax.eval_shape(function, jax.ShapeDtypeStruct((rows, columns, channels), x.dtype))
    canvas = jnp.zeros((factor * h, factor * w, result.shape[-1]), jnp.float32)
    places = (row_starts[tops], column_starts[lefts], row_weights[tops], column_weights[lefts])
    return jax.lax.scan(add, canvas, jax.tree.map(jnp.asarray, places))[0]


def overlapping(length: int, tile: int, overlap: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Tiles along one side, as few as share `overlap` pixels, evenly spread.

    Args:
        length: of the side.
        tile: of a tile, at most `length`.
        overlap: less than `tile`, or anything where one tile is enough.
        factor: by which the results are larger.

    Returns:
        starts int32[n], and weights float32[n, factor * tile] of each tile's result, which add up to one everywhere.
    """
    count = 1 if tile == length else -(-(length - overlap) // (tile - overlap))
    starts = np.linspace(0, length - tile, count).round().astype(np.int32)
    position = np.arange(factor * tile) + 0.5
    # A tent with a flat top; what is beyond the sides of the picture is made up for by the division.
    fading = np.minimum(1, np.minimum(position, factor * tile - position) / (factor * max(overlap, 1)))
    total = np.zeros(factor * length)
    for start in starts:
        total[factor * start : factor * (start + tile)] += fading
    weights = [fading / total[factor * start : factor * (start + tile)] for start in starts]
    return starts, np.asarray(weights, np.float32)
