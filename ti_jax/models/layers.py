"""Parts that the UNet and the autoencoder share; names are those of diffusers, layout is NHWC."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ti_jax.models import winograd
from ti_jax.models.products import einsum, in_bfloat16, matmul

_LARGEST_IN_ROWS = 128 * 128
"""Pixels of a picture above which operand and result of one product, 4.5 times the picture, take too much memory."""


class GroupNorm(nnx.Module):
    """Group normalisation in float32, whatever goes in; the result has the input's type."""

    def __init__(
        self, channels: int, groups: int, epsilon: float, *, rngs: nnx.Rngs, param_dtype: DTypeLike = jnp.float32
    ) -> None:
        self.groups, self.epsilon = groups, epsilon
        self.scale = nnx.Param(jnp.ones((channels,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), param_dtype))

    @jax.jit  # traced once for all of the same shapes
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        # Over the pixels first: a sum over both at once is five times slower on a CPU.
        pixels = tuple(range(1, x.ndim - 1))
        values = x.astype(jnp.float32)
        mean = jnp.mean(values, axis=pixels, keepdims=True)
        variance = jnp.mean(jnp.square(values - mean), axis=pixels, keepdims=True)
        group_mean = self._over_groups(mean)
        group_variance = self._over_groups(variance + jnp.square(mean - group_mean))
        shape = (1,) * (x.ndim - 1) + (-1,)
        scale, bias = (p[...].astype(jnp.float32).reshape(shape) for p in (self.scale, self.bias))
        normed = (values - group_mean) * (jax.lax.rsqrt(group_variance + self.epsilon) * scale)
        return (normed + bias).astype(x.dtype)

    def _over_groups(self, moments: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Each channel gets the mean of its group's."""
        size = moments.shape[-1] // self.groups
        means = jnp.mean(moments.reshape(*moments.shape[:-1], self.groups, size), axis=-1)
        return jnp.repeat(means, size, axis=-1)


def layer_norm(width: int, epsilon: float, *, rngs: nnx.Rngs, param_dtype: DTypeLike = jnp.float32) -> nnx.LayerNorm:
    """Layer normalisation that computes in float32; cast its result back."""
    return nnx.LayerNorm(width, epsilon=epsilon, rngs=rngs, dtype=jnp.float32, param_dtype=param_dtype)


def linear(inputs: int, outputs: int, **options: Any) -> nnx.Linear:
    """A linear layer, with the options of `nnx.Linear`."""
    return nnx.Linear(inputs, outputs, dot_general=_of_last_axis, **options)


def _of_last_axis(x: Array, kernel: Array, dimension_numbers: Any, **_: Any) -> Array:
    assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ()))
    return matmul(x, kernel)


class Conv(nnx.Conv):
    """A square convolution with a bias."""

    @jax.jit  # traced once for all of the same shapes
    def __call__(self, inputs: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        if self.kernel_size not in ((1, 1), (3, 3)) or self.strides != 1:
            return super().__call__(inputs)
        on_cpu = functools.partial(self._same_size, self._convolution_on_cpu(inputs))
        return jax.lax.platform_dependent(inputs, cpu=on_cpu, default=super().__call__)

    def _convolution_on_cpu(self, x: Array) -> Callable[[Array, Array], Array]:
        if self.kernel_size == (1, 1):
            return _pixels_times_kernel
        in_float32 = self.dtype == jnp.float32 and not in_bfloat16(jnp.float32)
        if in_float32 and winograd.pays(x.shape, self.out_features):
            return winograd.convolve
        # XLA's convolution on the CPU first rearranges the kernel, which may be larger than the picture's patches.
        return _patches_times_kernel if x[..., 0].size < x.shape[-1] else _convolve

    def _same_size(self, convolve: Callable[[Array, Array], Array], x: Array) -> Array:
        assert self.bias is not None
        x, kernel, bias = (y.astype(self.dtype) for y in (x, self.kernel[...], self.bias[...]))
        return convolve(x, kernel) + bias[None, None, None]


def _pixels_times_kernel(x: Float[Array, "b h w c"], kernel: Float[Array, "1 1 c d"]) -> Float[Array, "b h w d"]:
    """As a matrix product: the derivative of the convolution is much slower on a CPU."""
    return matmul(x, kernel[0, 0])


def _patches_times_kernel(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """Stride 1 and a pixel of padding, as one matrix product."""
    _, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=-1)
    return matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


@jax.custom_vjp
def _convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """Stride 1 and a pixel of padding. With JAX's own derivative by x, XLA is six times slower in a loop on the CPU."""
    if not _in_rows(x):
        return _lax_convolve(x, kernel)
    # One product gives what every row adds to the row below it, to itself and to the row above.
    kernels = kernel.transpose(1, 2, 0, 3).reshape(-1, 3 * kernel.shape[-1])
    below, itself, above = jnp.split(einsum("...c,cd->...d", _with_neighbours(x, 2), kernels), 3, axis=-1)
    nothing = jnp.zeros_like(itself[:, :1])
    from_above = jnp.concatenate([nothing, below[:, :-1]], axis=1)
    from_below = jnp.concatenate([above[:, 1:], nothing], axis=1)
    return (from_above + itself + from_below).astype(x.dtype)


def _in_rows(x: Array) -> bool:
    return in_bfloat16(x.dtype) and x.shape[1] * x.shape[2] <= _LARGEST_IN_ROWS


def _with_neighbours(x: Float[Array, "b h w c"], axis: int) -> Float[Array, "b h w 3*c"]:
    """Channels of the pixel before, of the pixel and of the one after it, in bfloat16. Not to be differentiated.

    XLA for CPUs would move numbers of bfloat16 as float32, but bits as they are.
    """
    bits, size = jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16), x.shape[axis]
    padded = jnp.pad(bits, [(1, 1) if i == axis else (0, 0) for i in range(4)])
    parts = [jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)]
    return jax.lax.bitcast_convert_type(jnp.concatenate(parts, axis=-1), jnp.bfloat16)


def _lax_convolve(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel), (x, kernel)


def _convolve_backward(saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    x, kernel = saved
    of_x = _convolve(slope, kernel[::-1, ::-1].transpose(0, 1, 3, 2))
    if _in_rows(x):
        # XLA transposes the first operand. The barrier keeps it from taking the result's transposition into the
        # product, for which it may then have no code.
        product = einsum("...d,...c->dc", _with_neighbours(slope, 1), _with_neighbours(x, 2))
        of_rows = jax.lax.optimization_barrier(product).reshape(3, slope.shape[-1], 3, x.shape[-1])
        return of_x, of_rows[::-1].transpose(0, 2, 3, 1).astype(kernel.dtype)
    (of_kernel,) = jax.linear_transpose(lambda k: _lax_convolve(x, k), kernel)(slope)
    return of_x, of_kernel


_convolve.defvjp(_convolve_forward, _convolve_backward)


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: int | tuple[tuple[int, int], tuple[int, int]] | None = None,
    rngs: nnx.Rngs,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Conv:
    """A square convolution, padded to keep the size unless told otherwise."""
    around = kernel // 2 if padding is None else padding
    pad = ((around, around), (around, around)) if isinstance(around, int) else around
    return Conv(
        inputs,
        outputs,
        (kernel, kernel),
        strides=stride,
        padding=pad,
        rngs=rngs,
        dtype=dtype,
        param_dtype=param_dtype,
    )


class ResnetBlock2D(nnx.Module):
    """Two convolutions with a skip, and a shift by the time embedding between them (diffusers `resnet.py`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        epsilon: float,
        temb_channels: int | None = None,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        types: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.norm1 = GroupNorm(in_channels, groups, epsilon, rngs=rngs, param_dtype=param_dtype)
        self.conv1 = conv(in_channels, out_channels, **types)
        if temb_channels is not None:
            self.time_emb_proj = linear(temb_channels, out_channels, **types)
        self.norm2 = GroupNorm(out_channels, groups, epsilon, rngs=rngs, param_dtype=param_dtype)
        self.conv2 = conv(out_channels, out_channels, **types)
        if in_channels != out_channels:
            self.conv_shortcut = conv(in_channels, out_channels, 1, **types)

    @jax.jit  # traced once for all of the same shapes
    def __call__(self, x: Float[Array, "b h w c"], temb: Float[Array, "b t"] | None = None) -> Float[Array, "b h w d"]:
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        if temb is not None:
            h = h + self.time_emb_proj(jax.nn.silu(temb))[:, None, None, :]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h


class Downsample2D(nnx.Module):
    """Halves height and width by a strided convolution.

    Args:
        channels: in and out.
        padding: 1 on all sides, as in the UNet; 0 for one row below and one column to the right, as in the VAE.
    """

    def __init__(
        self,
        channels: int,
        padding: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        pad = ((0, 1), (0, 1)) if padding == 0 else padding
        self.conv = conv(channels, channels, stride=2, padding=pad, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return self.conv(x)


class Upsample2D(nnx.Module):
    """Repeats each pixel, twice in height and width unless a size is given, then a convolution."""

    def __init__(
        self,
        channels: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.conv = conv(channels, channels, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "b h w c"], size: tuple[int, int] | None = None) -> Float[Array, "b h2 w2 c"]:
        b, h, w, c = x.shape
        if size is None or size == (2 * h, 2 * w):
            x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
        else:
            # torch's nearest neighbour, which rounds down; jax.image takes the nearest centre.
            rows, columns = (jnp.arange(n) * m // n for n, m in zip(size, (h, w), strict=True))
            x = x[:, rows][:, :, columns]
        return self.conv(x)
