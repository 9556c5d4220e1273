"""Matrix products, so written that a CPU is quick with those of bfloat16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def matmul(x: Float[Array, "*b c"], kernel: Float[Array, "c d"]) -> Float[Array, "*b d"]:
    """`x @ kernel`.

    On a CPU, XLA takes the instructions for bfloat16 (AMX) only for products that come out in float32, and is slower
    than with float32 otherwise. So there they do, in the derivatives too, and are rounded after.

    Args:
        x: of any float type.
        kernel: of the same type.

    Returns:
        the product, in this type.
    """
    if not in_bfloat16(x.dtype):
        return x @ kernel
    return jax.lax.platform_dependent(x, kernel, cpu=_matmul, default=jnp.matmul)


def in_bfloat16(dtype: DTypeLike) -> bool:
    """Whether products of a type are to be those of bfloat16.

    They are of bfloat16 itself, and of float32 where JAX's setting `jax_default_matmul_precision` says so, which XLA
    for CPUs would pass over.
    """
    asked = jax.config.values["jax_default_matmul_precision"] in ("bfloat16", "BF16_BF16_F32")
    return dtype == jnp.bfloat16 or (dtype == jnp.float32 and asked)


def kernel_type(dtype: DTypeLike, platform: str) -> DTypeLike:
    """The type to keep the kernels of frozen networks in.

    Those that products on a CPU would round to bfloat16 may as well be kept so: that is half of the memory, and spares
    the rounding. Strided convolutions and those of large pictures, which are not such products, get them rounded too.

    Args:
        dtype: of the other parameters.
        platform: that the networks are for.

    Returns:
        bfloat16, or the same type.
    """
    return jnp.bfloat16 if platform == "cpu" and in_bfloat16(dtype) else dtype


def einsum(indices: str, a: Array, b: Array) -> Array:
    """A product that comes out in float32, of operands that are rounded to bfloat16 if they are to be."""
    if in_bfloat16(a.dtype):
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    return jnp.einsum(indices, a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _matmul(x: Array, kernel: Array) -> Array:
    return einsum("...c,cd->...d", x, kernel).astype(x.dtype)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = saved
    of_kernel = einsum("...c,...d->cd", x, slope)
    return _times_transposed(slope, kernel).astype(x.dtype), of_kernel.astype(kernel.dtype)


def _times_transposed(slope: Array, kernel: Array) -> Array:
    """`slope @ kernel.T`. XLA would transpose the kernel; where that is the larger part, operand and result are."""
    (c, d), rows = kernel.shape, slope.size // slope.shape[-1]
    if rows * (d + 2 * c) > c * d:
        return einsum("...d,cd->...c", slope, kernel)
    # Without a barrier XLA takes the transpositions into the product, for which it may then have no code at run time.
    transposed = jax.lax.optimization_barrier(einsum("cd,nd->cn", kernel, slope.reshape(rows, d)))
    return transposed.T.reshape(*slope.shape[:-1], c)


_matmul.defvjp(_forward, _backward)
