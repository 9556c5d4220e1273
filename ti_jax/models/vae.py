"""The autoencoder between pictures and latents (diffusers `autoencoder_kl.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ti_jax.errors import UserError
from ti_jax.models.attention import attention
from ti_jax.models.config import ANY, check_divides, read_config
from ti_jax.models.layers import Downsample2D, GroupNorm, ResnetBlock2D, Upsample2D, conv, linear

_EPSILON = 1e-6

_NEUTRAL: dict[str, Any] = {
    "act_fn": ("silu",),
    "sample_size": ANY,
    "force_upcast": ANY,  # precision is chosen by the pipeline
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
}


@dataclass(frozen=True)
class AutoencoderKLConfig:
    """Keys and defaults of diffusers' `AutoencoderKL`."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    def __post_init__(self) -> None:
        for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            unknown = set(getattr(self, name)) - {kind}
            if unknown:
                raise UserError(f"autoencoder: {name} has {sorted(unknown)}; only {kind} is supported")
        levels = len(self.block_out_channels)
        if not levels == len(self.down_block_types) == len(self.up_block_types):
            raise UserError("autoencoder: block_out_channels, down_block_types and up_block_types differ in length")
        check_divides("autoencoder", "norm_num_groups", self.norm_num_groups, self.block_out_channels)

    @property
    def factor(self) -> int:
        """Pixels a latent, in height and in width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderKLConfig:
        """Reads a `config.json`; raises UserError for what is not implemented."""
        return read_config(cls, values, neutral=_NEUTRAL, what="autoencoder")


class VAEAttention(nnx.Module):
    """Self-attention over all pixels, with one head."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.group_norm = GroupNorm(channels, groups, _EPSILON, rngs=rngs, param_dtype=types["param_dtype"])
        self.to_q = linear(channels, channels, rngs=rngs, **types)
        self.to_k = linear(channels, channels, rngs=rngs, **types)
        self.to_v = linear(channels, channels, rngs=rngs, **types)
        self.to_out = nnx.List([linear(channels, channels, rngs=rngs, **types)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        tokens = self.group_norm(x).reshape(b, h * w, c)
        q, k, v = (p(tokens)[:, :, None] for p in (self.to_q, self.to_k, self.to_v))
        return x + self.to_out[0](attention(q, k, v)[:, :, 0]).reshape(b, h, w, c)


class VAEMidBlock(nnx.Module):
    """Attention between two residual blocks."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.resnets = nnx.List([_resnet(channels, channels, groups, rngs=rngs, **types) for _ in range(2)])
        self.attentions = nnx.List([VAEAttention(channels, groups, rngs=rngs, **types)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class DownEncoderBlock2D(nnx.Module):
    """Residual blocks, then half the size."""

    def __init__(
        self, inputs: int, outputs: int, layers: int, groups: int, *, downsample: bool, rngs: nnx.Rngs, **types: Any
    ) -> None:
        self.resnets = nnx.List(
            [_resnet(inputs if i == 0 else outputs, outputs, groups, rngs=rngs, **types) for i in range(layers)]
        )
        if downsample:
            self.downsamplers = nnx.List([Downsample2D(outputs, 0, rngs=rngs, **types)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        for resnet in self.resnets:
            x = resnet(x)
        return self.downsamplers[0](x) if hasattr(self, "downsamplers") else x


class UpDecoderBlock2D(nnx.Module):
    """Residual blocks, then twice the size."""

    def __init__(
        self, inputs: int, outputs: int, layers: int, groups: int, *, upsample: bool, rngs: nnx.Rngs, **types: Any
    ) -> None:
        self.resnets = nnx.List(
            [_resnet(inputs if i == 0 else outputs, outputs, groups, rngs=rngs, **types) for i in range(layers)]
        )
        if upsample:
            self.upsamplers = nnx.List([Upsample2D(outputs, rngs=rngs, **types)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        for resnet in self.resnets:
            x = resnet(x)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class Encoder(nnx.Module):
    """Pictures to the moments of latents."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        channels, groups = config.block_out_channels, config.norm_num_groups
        last = len(channels) - 1
        self.conv_in = conv(config.in_channels, channels[0], rngs=rngs, **types)
        self.down_blocks = nnx.List(
            [
                DownEncoderBlock2D(
                    channels[max(i - 1, 0)],
                    channels[i],
                    config.layers_per_block,
                    groups,
                    downsample=i < last,
                    rngs=rngs,
                    **types,
                )
                for i in range(len(channels))
            ]
        )
        self.mid_block = VAEMidBlock(channels[-1], groups, rngs=rngs, **types)
        self.conv_norm_out = GroupNorm(channels[-1], groups, _EPSILON, rngs=rngs, param_dtype=types["param_dtype"])
        self.conv_out = conv(channels[-1], 2 * config.latent_channels, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 m"]:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    """Latents to pictures."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs, **types: Any) -> None:
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups
        last = len(channels) - 1
        self.conv_in = conv(config.latent_channels, channels[0], rngs=rngs, **types)
        self.mid_block = VAEMidBlock(channels[0], groups, rngs=rngs, **types)
        self.up_blocks = nnx.List(
            [
                UpDecoderBlock2D(
                    channels[max(i - 1, 0)],
                    channels[i],
                    config.layers_per_block + 1,
                    groups,
                    upsample=i < last,
                    rngs=rngs,
                    **types,
                )
                for i in range(len(channels))
            ]
        )
        self.conv_norm_out = GroupNorm(channels[-1], groups, _EPSILON, rngs=rngs, param_dtype=types["param_dtype"])
        self.conv_out = conv(channels[-1], config.out_channels, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class AutoencoderKL(nnx.Module):
    """The variational autoencoder of latent diffusion; latents here are unscaled.

    Args:
        config: sizes.
        rngs: for the initial parameters.
        dtype: of the computation; norms and softmax are in float32.
        param_dtype: of the parameters.
    """

    def __init__(
        self,
        config: AutoencoderKLConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.encoder = Encoder(config, rngs=rngs, **types)
        self.decoder = Decoder(config, rngs=rngs, **types)
        moments = 2 * config.latent_channels
        if config.use_quant_conv:
            self.quant_conv = conv(moments, moments, 1, rngs=rngs, **types)
        if config.use_post_quant_conv:
            self.post_quant_conv = conv(config.latent_channels, config.latent_channels, 1, rngs=rngs, **types)

    def encode(self, images: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h2 w2 l"], Float[Array, "b h2 w2 l"]]:
        """The posterior of the latents.

        Args:
            images: in [-1, 1]; height and width are multiples of `config.factor`.

        Returns:
            mean and logarithm of the variance.
        """
        moments = self.encoder(images)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, log_variance

    def decode(self, latents: Float[Array, "b h w l"]) -> Float[Array, "b h2 w2 c"]:
        """Pictures, about in [-1, 1], of unscaled latents."""
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)

    def decode_sliced(self, latents: Float[Array, "b h w l"]) -> Float[Array, "b h2 w2 c"]:
        """`decode` of one picture after the other, for when memory is short."""
        return jax.lax.map(lambda x: self.decode(x[None])[0], latents)


def _resnet(inputs: int, outputs: int, groups: int, *, rngs: nnx.Rngs, **types: Any) -> ResnetBlock2D:
    return ResnetBlock2D(inputs, outputs, groups=groups, epsilon=_EPSILON, rngs=rngs, **types)
