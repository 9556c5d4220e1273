"""The denoising network of Stable Diffusion 1, 2 and XL (diffusers `unet_2d_condition.py`)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from ti_jax.errors import UserError
from ti_jax.models.config import ANY, check_divides, read_config
from ti_jax.models.layers import GroupNorm, conv, linear
from ti_jax.models.unet_blocks import DownBlock, Level, MidBlock, Remat, UpBlock, forgetful

_DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
_UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}

_NEUTRAL: dict[str, Any] = {
    "act_fn": ("silu",),
    "addition_embed_type_num_heads": ANY,  # of other addition types
    "attention_type": ("default",),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "dropout": ANY,  # the network is frozen
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),  # diffusers refuses it too; see `attention_head_dim`
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1, 1.0),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "upcast_attention": ANY,  # scores and softmax are in float32 always
}
_BY_LEVEL = (
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "attention_head_dim",
)


@dataclass(frozen=True)
class UNetConfig:
    """Keys and defaults of diffusers' `UNet2DConditionModel`."""

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 4
    out_channels: int = 4
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    down_block_types: tuple[str, ...] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    up_block_types: tuple[str, ...] = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int, ...] = 1
    attention_head_dim: int | tuple[int, ...] = 8
    """The number of heads, in spite of its name (diffusers issue 2011)."""
    use_linear_projection: bool = False
    addition_embed_type: str | None = None
    addition_time_embed_dim: int | None = None
    projection_class_embeddings_input_dim: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("down_block_types", _DOWN), ("up_block_types", _UP)):
            unknown = set(getattr(self, name)) - set(known)
            if unknown:
                raise UserError(f"UNet: {name} has {sorted(unknown)}; known are {sorted(known)}")
        if self.addition_embed_type not in (None, "text_time"):
            raise UserError(f"UNet: addition_embed_type = {self.addition_embed_type!r} is not supported")
        if self.addition_embed_type and None in (
            self.addition_time_embed_dim,
            self.projection_class_embeddings_input_dim,
        ):
            raise UserError(
                "UNet: addition_embed_type wants addition_time_embed_dim and projection_class_embeddings_input_dim"
            )
        for name in _BY_LEVEL:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.down_block_types):
                raise UserError(f"UNet: {name} = {list(value)} and down_block_types differ in length")
        check_divides("UNet", "norm_num_groups", self.norm_num_groups, self.block_out_channels)
        for level in self.levels():
            check_divides("UNet", "attention_head_dim", level.heads, [level.channels])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """Reads a `config.json`; raises UserError for what is not implemented."""
        return read_config(cls, values, neutral=_NEUTRAL, what="UNet")

    def levels(self) -> list[Level]:
        """The levels on the way down, largest first; on the way up they are the same with one residual block more."""
        return [
            Level(
                channels=self.block_out_channels[i],
                resnets=_at(self.layers_per_block, i),
                temb_channels=4 * self.block_out_channels[0],
                groups=self.norm_num_groups,
                epsilon=self.norm_eps,
                attention=_DOWN[self.down_block_types[i]],
                heads=_at(self.attention_head_dim, i),
                context=_at(self.cross_attention_dim, i),
                transformer_layers=_at(self.transformer_layers_per_block, i),
                linear_projection=self.use_linear_projection,
            )
            for i in range(len(self.block_out_channels))
        ]


def _at(value: int | tuple[int, ...], index: int) -> int:
    return value[index] if isinstance(value, tuple) else value


class TimestepEmbedding(nnx.Module):
    """Two linear layers."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs, **types: Any) -> None:
        self.linear_1 = linear(inputs, outputs, rngs=rngs, **types)
        self.linear_2 = linear(outputs, outputs, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


def sinusoids(
    positions: Shaped[Array, " b"], width: int, *, flip_sin_to_cos: bool, freq_shift: int
) -> Float[Array, "b width"]:
    """Sinusoidal embedding of timesteps in float32 (diffusers `embeddings.get_timestep_embedding`).

    Args:
        positions: timesteps, integers or fractions.
        width: of the result; even.
        flip_sin_to_cos: cosines first.
        freq_shift: subtracted from half the width in the exponent's denominator.

    Returns:
        sines and cosines of frequencies from 1 down to about 1 / 10,000.
    """
    half = width // 2
    exponent = -jnp.log(jnp.float32(10000.0)) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = positions.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None]
    pair = (jnp.cos(angles), jnp.sin(angles)) if flip_sin_to_cos else (jnp.sin(angles), jnp.cos(angles))
    return jnp.concatenate(pair, axis=-1)


class UNet2DConditionModel(nnx.Module):
    """Predicts noise (or velocity, or sample) of noisy latents, given a context.

    Args:
        config: sizes and options.
        rngs: for the initial parameters.
        dtype: of the computation; norms and softmax are in float32.
        param_dtype: of the parameters.
    """

    def __init__(
        self,
        config: UNetConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.config, self.dtype = config, dtype
        levels, channels = config.levels(), config.block_out_channels
        width, last = channels[0], len(channels) - 1
        self.conv_in = conv(config.in_channels, width, rngs=rngs, **types)
        self.time_embedding = TimestepEmbedding(width, 4 * width, rngs=rngs, **types)
        if config.addition_embed_type is not None:
            assert config.projection_class_embeddings_input_dim is not None
            self.add_embedding = TimestepEmbedding(
                config.projection_class_embeddings_input_dim, 4 * width, rngs=rngs, **types
            )
        self.down_blocks = nnx.List(
            [
                DownBlock(
                    level,
                    channels[max(i - 1, 0)],
                    downsample_padding=config.downsample_padding if i < last else None,
                    rngs=rngs,
                    **types,
                )
                for i, level in enumerate(levels)
            ]
        )
        self.mid_block = MidBlock(levels[-1], rngs=rngs, **types)
        self.up_blocks = nnx.List(
            [
                UpBlock(
                    level._replace(attention=_UP[config.up_block_types[last - i]]),
                    channels[min(i + 1, last)],
                    [channels[i]] * level.resnets + [channels[max(i - 1, 0)]],
                    upsample=i > 0,
                    rngs=rngs,
                    **types,
                )
                for i, level in reversed(list(enumerate(levels)))
            ]
        )
        self.conv_norm_out = GroupNorm(
            width, config.norm_num_groups, config.norm_eps, rngs=rngs, param_dtype=param_dtype
        )
        self.conv_out = conv(width, config.out_channels, rngs=rngs, **types)

    def __call__(
        self,
        sample: Float[Array, "b h w c"],
        timesteps: Shaped[Array, " b"],
        encoder_hidden_states: Float[Array, "b l d"],
        added_conditions: Mapping[str, Array] | None = None,
        *,
        remat: Remat = "none",
    ) -> Float[Array, "b h w c2"]:
        """One evaluation.

        Args:
            sample: noisy latents.
            timesteps: of each example, in [0, number of training timesteps).
            encoder_hidden_states: the context.
            added_conditions: for SDXL, `text_embeds` [b, p] and `time_ids` [b, 6].
            remat: what the backward pass computes again, for the sake of memory.

        Returns:
            the prediction, in the compute type.
        """
        config = self.config
        context = encoder_hidden_states.astype(self.dtype)
        temb = self.time_embedding(self._sinusoids(timesteps, config.block_out_channels[0]))
        if config.addition_embed_type is not None:
            temb = temb + self._added(added_conditions)
        x = 2.0 * sample - 1.0 if config.center_input_sample else sample
        x = self.conv_in(x.astype(self.dtype))
        level = functools.partial(forgetful, forget=remat == "everything", remat=remat)
        skips = [x]
        for block in self.down_blocks:
            x, more = level(block)(x, temb, context)
            skips += more
        x = level(self.mid_block)(x, temb, context)
        for block in self.up_blocks:
            skips, taken = skips[: -len(block.resnets)], skips[-len(block.resnets) :]
            size = skips[-1].shape[1:3] if skips else None
            x = level(block, size=size)(x, taken, temb, context)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))

    def _sinusoids(self, positions: Shaped[Array, " b"], width: int) -> Float[Array, "b width"]:
        config = self.config
        return sinusoids(positions, width, flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift).astype(
            self.dtype
        )

    def _added(self, conditions: Mapping[str, Array] | None) -> Float[Array, "b t"]:
        """SDXL's embedding of pooled text, picture sizes and crops."""
        if conditions is None:
            raise UserError("this UNet wants added_conditions: text_embeds and time_ids")
        assert self.config.addition_time_embed_dim is not None
        ids = conditions["time_ids"]
        sizes = self._sinusoids(ids.reshape(-1), self.config.addition_time_embed_dim).reshape(ids.shape[0], -1)
        return self.add_embedding(jnp.concatenate([conditions["text_embeds"].astype(self.dtype), sizes], axis=-1))
