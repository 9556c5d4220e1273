"""Winograd's convolution: 3 x 3 kernels with four times fewer multiplications (Lavin & Gray 2015, arXiv 1509.09308).

A tile of 4 x 4 pixels of the result takes 6 x 6 products in the place of 16 x 9. Input and kernel are read as
polynomials, and multiplied by their values at six points of each axis: the paper's F(4 x 4, 3 x 3), but at points
that lose five times less to rounding than the paper's 0, 1, -1, 2, -2 and infinity.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

_TILE, _POINTS = 4, 6  # pixels along one side of a tile of the result, and of the input that it is made of


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The paper's A^T [4, 6], G [6, 3] and B^T [6, 6].

    The points are in such an order, and the rows of G so scaled, that G read from below is G read from the right: a
    turned kernel has the same values in turned order.
    """
    root = np.sqrt(2.0)
    points = np.array([0, root, -root, -1 / root, 1 / root])
    scales = np.array([1, root, root, 1 / root, 1 / root, 1])[:, None]

    def values(coefficients: int) -> np.ndarray:
        at_infinity = np.eye(coefficients)[-1:]
        return np.concatenate([points[:, None] ** np.arange(coefficients), at_infinity])

    matrices = values(_TILE).T, values(3) / scales, np.linalg.inv(values(_POINTS)).T * scales
    of_output, of_kernel, of_input = (np.where(np.abs(m) < 1e-9, 0, m).astype(np.float32) for m in matrices)
    return of_output, of_kernel, of_input


_OF_OUTPUT, _OF_KERNEL, _OF_INPUT = _matrices()


def pays(shape: Sequence[int], outputs: int) -> bool:
    """Whether this is worth its while on a CPU.

    The kernel's values at all points are four times the kernel, and made in every pass: they must be few beside the
    pixels. Of small networks it would take longer to compile than it saves. All tiles together are 2.25 times the
    input, which is too much of large pictures. The number of examples plays no part, so that each has the same rounding
    in any company.

    Args:
        shape: of the input: examples, height, width, channels.
        outputs: channels.
    """
    _, h, w, inputs = shape
    return min(inputs, outputs) >= 256 and inputs * outputs / 200 <= h * w <= 128 * 128


@jax.custom_vjp
def convolve(x: Float32[Array, "b h w c"], kernel: Float32[Array, "3 3 c d"]) -> Float32[Array, "b h w d"]:
    """A convolution of stride 1 with a pixel of padding.

    Args:
        x: of any size; it is padded to whole tiles.
        kernel: as `jax.lax.conv_general_dilated` takes it.

    Returns:
        what `jax.lax.conv_general_dilated` returns but for rounding, less than 1e-5 of the largest value.
    """
    return _by_tiles(x, kernel, "ptc,pcd->ptd", _OF_INPUT, _OF_OUTPUT)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = saved
    # A convolution with the turned kernel.
    of_x = _by_tiles(slope, kernel, "ptd,pcd->ptc", _OF_INPUT[::-1], _OF_OUTPUT[:, ::-1])
    (of_kernel,) = jax.linear_transpose(lambda k: _direct(x, k), kernel)(slope)
    return of_x, of_kernel


convolve.defvjp(_forward, _backward)


def _direct(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _values_of_kernel(kernel: Array) -> Float32[Array, "36 c d"]:
    rows = _combine(_OF_KERNEL, list(kernel), axis=0)
    return _combine(_OF_KERNEL, [rows[:, j] for j in range(3)], axis=1).reshape(-1, *kernel.shape[2:])


def _by_tiles(x: Array, kernel: Array, product: str, of_input: np.ndarray, of_output: np.ndarray) -> Array:
    """One axis after the other: values of all tiles, their products with the kernel's, and what these make up."""
    x, kernel = jax.lax.optimization_barrier((x, kernel))  # or a loop would keep the values of all kernels
    b, h, w, c = x.shape
    down, across = -(-h // _TILE), -(-w // _TILE)
    x = jnp.pad(x, ((0, 0), (1, down * _TILE - h + 1), (1, across * _TILE - w + 1), (0, 0)))
    rows = _combine(of_input, [x[:, i : i + down * _TILE - 3 : _TILE] for i in range(_POINTS)], axis=0)
    columns = [rows[:, :, :, j : j + across * _TILE - 3 : _TILE] for j in range(_POINTS)]
    values = _combine(of_input, columns, axis=1).reshape(_POINTS**2, -1, c)
    products = jnp.einsum(product, values, _values_of_kernel(kernel)).reshape(_POINTS, _POINTS, b, down, across, -1)
    columns = _combine(of_output, [products[:, j] for j in range(_POINTS)], axis=4)
    rows = list(columns.reshape(_POINTS, b, down, across * _TILE, -1))
    return _combine(of_output, rows, axis=2).reshape(b, down * _TILE, across * _TILE, -1)[:, :h, :w]


def _combine(matrix: np.ndarray, parts: Sequence[Array], axis: int) -> Array:
    """The matrix times the parts, along a new axis."""
    sums = [sum(weight * part for weight, part in zip(row, parts, strict=True) if weight) for row in matrix]
    return jnp.stack(sums, axis=axis)
