"""The levels of the UNet (diffusers `unet_2d_blocks.py`): one class down, one up, with attention or without."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ti_jax.models.layers import Downsample2D, ResnetBlock2D, Upsample2D
from ti_jax.models.transformer import Transformer2DModel

Remat = Literal["none", "blocks", "everything"]
"""What the backward pass computes again instead of keeping it: nothing; what is inside of residual blocks and
transformers; or also what is between them inside of a level."""


def forgetful(block: Callable[..., Any], forget: bool, **options: Any) -> Callable[..., Any]:
    """The block; if it is to forget, its backward pass computes all again from its arguments."""
    if not forget:
        return functools.partial(block, **options)
    # The block is an argument too: its parameters, closed over, would be constants.
    return functools.partial(jax.checkpoint(lambda block, *args: block(*args, **options)), block)


class Level(NamedTuple):
    """What the blocks of one resolution have in common."""

    channels: int
    resnets: int
    temb_channels: int
    groups: int
    epsilon: float
    attention: bool
    heads: int
    context: int
    transformer_layers: int
    linear_projection: bool

    def resnet(self, inputs: int, *, rngs: nnx.Rngs, **types: Any) -> ResnetBlock2D:
        """A residual block into this level's channels."""
        return ResnetBlock2D(
            inputs,
            self.channels,
            groups=self.groups,
            epsilon=self.epsilon,
            temb_channels=self.temb_channels,
            rngs=rngs,
            **types,
        )

    def transformer(self, *, rngs: nnx.Rngs, **types: Any) -> Transformer2DModel:
        """A spatial transformer of this level's channels."""
        return Transformer2DModel(
            self.channels,
            self.context,
            self.heads,
            layers=self.transformer_layers,
            groups=self.groups,
            linear_projection=self.linear_projection,
            rngs=rngs,
            **types,
        )


class DownBlock(nnx.Module):
    """`DownBlock2D` or `CrossAttnDownBlock2D`: residual blocks, each with attention after it or not, then half size."""

    def __init__(
        self, level: Level, inputs: int, *, downsample_padding: int | None, rngs: nnx.Rngs, **types: Any
    ) -> None:
        first = [inputs] + [level.channels] * (level.resnets - 1)
        self.resnets = nnx.List([level.resnet(n, rngs=rngs, **types) for n in first])
        if level.attention:
            self.attentions = nnx.List([level.transformer(rngs=rngs, **types) for _ in first])
        if downsample_padding is not None:
            self.downsamplers = nnx.List([Downsample2D(level.channels, downsample_padding, rngs=rngs, **types)])

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        temb: Float[Array, "b t"],
        context: Float[Array, "b l d"],
        *,
        remat: Remat = "none",
    ) -> tuple[Float[Array, "b h2 w2 c2"], list[Array]]:
        """The level's result, and what goes over to the way up."""
        skips: list[Array] = []
        for i, resnet in enumerate(self.resnets):
            x = forgetful(resnet, remat != "none")(x, temb)
            if hasattr(self, "attentions"):
                x = forgetful(self.attentions[i], remat != "none")(x, context)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class MidBlock(nnx.Module):
    """`UNetMidBlock2DCrossAttn`: attention between two residual blocks."""

    def __init__(self, level: Level, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.resnets = nnx.List([level.resnet(level.channels, rngs=rngs, **types) for _ in range(2)])
        self.attentions = nnx.List([level.transformer(rngs=rngs, **types)])

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        temb: Float[Array, "b t"],
        context: Float[Array, "b l d"],
        *,
        remat: Remat = "none",
    ) -> Float[Array, "b h w c"]:
        blocks = self.resnets[0], self.attentions[0], self.resnets[1]
        first, attention, second = (forgetful(block, remat != "none") for block in blocks)
        return second(attention(first(x, temb), context), temb)


class UpBlock(nnx.Module):
    """`UpBlock2D` or `CrossAttnUpBlock2D`: residual blocks that take in what came over, then twice the size.

    Args:
        level: of the block.
        inputs: channels from below.
        skips: channels of what comes over, in the order it is taken in, one a residual block.
        upsample: whether a larger level follows.
        rngs: for the initial parameters.
        types: `dtype` and `param_dtype`.
    """

    def __init__(
        self, level: Level, inputs: int, skips: Sequence[int], *, upsample: bool, rngs: nnx.Rngs, **types: Any
    ) -> None:
        below = [inputs] + [level.channels] * (len(skips) - 1)
        self.resnets = nnx.List([level.resnet(a + b, rngs=rngs, **types) for a, b in zip(below, skips, strict=True)])
        if level.attention:
            self.attentions = nnx.List([level.transformer(rngs=rngs, **types) for _ in skips])
        if upsample:
            self.upsamplers = nnx.List([Upsample2D(level.channels, rngs=rngs, **types)])

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        skips: list[Array],
        temb: Float[Array, "b t"],
        context: Float[Array, "b l d"],
        *,
        size: tuple[int, int] | None,
        remat: Remat = "none",
    ) -> Float[Array, "b h2 w2 c2"]:
        """Takes in its `skips`, the last one first; `size` is that of the next level."""
        for i, (resnet, skip) in enumerate(zip(self.resnets, reversed(skips), strict=True)):
            x = forgetful(resnet, remat != "none")(jnp.concatenate([x, skip], axis=-1), temb)
            if hasattr(self, "attentions"):
                x = forgetful(self.attentions[i], remat != "none")(x, context)
        return self.upsamplers[0](x, size) if hasattr(self, "upsamplers") else x
