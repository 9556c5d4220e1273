"""The spatial transformer inside the UNet (diffusers `transformer_2d.py`, `attention.py`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ti_jax.models.attention import attention
from ti_jax.models.layers import GroupNorm, conv, layer_norm, linear


class Attention(nnx.Module):
    """Attention of pixels to a context, or to each other."""

    def __init__(self, width: int, context: int, heads: int, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.heads = heads
        self.to_q = linear(width, width, use_bias=False, rngs=rngs, **types)
        self.to_k = linear(context, width, use_bias=False, rngs=rngs, **types)
        self.to_v = linear(context, width, use_bias=False, rngs=rngs, **types)
        self.to_out = nnx.List([linear(width, width, rngs=rngs, **types)])

    def __call__(
        self, x: Float[Array, "b q width"], context: Float[Array, "b k d"] | None = None
    ) -> Float[Array, "b q width"]:
        source = x if context is None else context
        q, k, v = (
            y.reshape(*y.shape[:2], self.heads, -1) for y in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        return self.to_out[0](attention(q, k, v).reshape(x.shape))


class GEGLU(nnx.Module):
    """A linear layer whose one half gates the other."""

    def __init__(self, width: int, inner: int, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.proj = linear(width, 2 * inner, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "b q width"]) -> Float[Array, "b q inner"]:
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * jax.nn.gelu(gate, approximate=False)


class Dropout(nnx.Module):
    """Nothing, since the network is frozen; it keeps the numbers in diffusers' `net.0`, `net.1`, `net.2`."""

    def __call__(self, x: Float[Array, "b q inner"]) -> Float[Array, "b q inner"]:
        return x


class FeedForward(nnx.Module):
    """GEGLU to four times the width and back."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.net = nnx.List(
            [GEGLU(width, 4 * width, rngs=rngs, **types), Dropout(), linear(4 * width, width, rngs=rngs, **types)]
        )

    def __call__(self, x: Float[Array, "b q width"]) -> Float[Array, "b q width"]:
        for layer in self.net:
            x = layer(x)
        return x


class BasicTransformerBlock(nnx.Module):
    """Self-attention, cross-attention and feed-forward, each behind a norm and beside a skip."""

    def __init__(self, width: int, context: int, heads: int, *, rngs: nnx.Rngs, **types: Any) -> None:
        norm = {"rngs": rngs, "param_dtype": types["param_dtype"]}
        self.norm1 = layer_norm(width, 1e-5, **norm)
        self.attn1 = Attention(width, width, heads, rngs=rngs, **types)
        self.norm2 = layer_norm(width, 1e-5, **norm)
        self.attn2 = Attention(width, context, heads, rngs=rngs, **types)
        self.norm3 = layer_norm(width, 1e-5, **norm)
        self.ff = FeedForward(width, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "b q width"], context: Float[Array, "b k d"]) -> Float[Array, "b q width"]:
        x = x + self.attn1(self.norm1(x).astype(x.dtype))
        x = x + self.attn2(self.norm2(x).astype(x.dtype), context)
        return x + self.ff(self.norm3(x).astype(x.dtype))


class Transformer2DModel(nnx.Module):
    """Transformer blocks over the pixels of a feature map.

    Args:
        channels: of the feature map.
        context: width of what is attended to.
        heads: of attention.
        layers: transformer blocks.
        groups: of the group norm.
        linear_projection: whether the projections in and out are linear layers (SD 2, SDXL) or 1x1 convolutions.
        rngs: for the initial parameters.
        types: `dtype` and `param_dtype`.
    """

    def __init__(
        self,
        channels: int,
        context: int,
        heads: int,
        *,
        layers: int,
        groups: int,
        linear_projection: bool,
        rngs: nnx.Rngs,
        **types: Any,
    ) -> None:
        self.norm = GroupNorm(channels, groups, 1e-6, rngs=rngs, param_dtype=types["param_dtype"])
        self.proj_in = _projection(channels, linear_projection, rngs=rngs, **types)
        self.transformer_blocks = nnx.List(
            [BasicTransformerBlock(channels, context, heads, rngs=rngs, **types) for _ in range(layers)]
        )
        self.proj_out = _projection(channels, linear_projection, rngs=rngs, **types)

    @jax.jit  # traced once for all of the same shapes
    def __call__(self, x: Float[Array, "b h w c"], context: Float[Array, "b k d"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        # A 1x1 convolution of the map and a linear layer of its pixels are the same in NHWC.
        tokens = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.reshape(b, h, w, c))


def _projection(channels: int, is_linear: bool, *, rngs: nnx.Rngs, **types: Any) -> nnx.Linear | nnx.Conv:
    if is_linear:
        return linear(channels, channels, rngs=rngs, **types)
    return conv(channels, channels, 1, rngs=rngs, **types)
