"""Configurations of networks in checkpoints of the original layout, from the shapes of their tensors.

Such a file has no config. Shapes tell all but the number of attention heads, for which each family has a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ti_jax.errors import UserError
from ti_jax.models.clip import CLIPTextConfig
from ti_jax.models.unet import UNetConfig
from ti_jax.models.vae import AutoencoderKLConfig

Shapes = Mapping[str, tuple[int, ...]]

_HEAD = 64
"""Channels of an attention head in every CLIP, and in the UNets of Stable Diffusion 2 and XL."""
_GROUPS = 32
_IDS = 6
"""Numbers that tell an SDXL UNet sizes and crop."""


def clip_config(shapes: Shapes, **settings: Any) -> CLIPTextConfig:
    """Of a text transformer.

    Args:
        shapes: by name, as OpenAI's CLIP in transformers or as OpenCLIP has them.
        settings: what shapes do not tell.

    Returns:
        the configuration.
    """
    table = _one_of(shapes, "token_embedding.weight", "embeddings.token_embedding.weight")
    stem = "transformer.resblocks" if "token_embedding.weight" in shapes else "encoder.layers"
    layers = _count(shapes, f"{stem}.{{}}.")
    inner = _one_of(shapes, f"{stem}.0.mlp.c_fc.weight", f"{stem}.0.mlp.fc1.weight")[0]
    words, width = table[0], table[1]
    projection = shapes.get("text_projection", (width, width))[1]
    return CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=inner,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=_heads(width, "text encoder"),
        max_position_embeddings=_one_of(shapes, "positional_embedding", "embeddings.position_embedding.weight")[0],
        eos_token_id=2,  # as the configs of the published models say
        **settings,
    )


def unet_config(
    shapes: Shapes, *, heads: int | None, sample_size: int | tuple[int, int] | None, pooled: int
) -> UNetConfig:
    """Of a UNet.

    Args:
        shapes: by name.
        heads: of attention, the same at each level; None for one a 64 channels.
        sample_size: latents in height and in width.
        pooled: width of the text encoder's pooled output, for SDXL.

    Returns:
        the configuration.
    """
    channels: list[int] = []
    counts: list[int] = []
    depths: list[int] = []
    n = 1
    while f"input_blocks.{n}.0.in_layers.2.weight" in shapes:
        first = n
        while f"input_blocks.{n}.0.in_layers.2.weight" in shapes:
            n += 1
        channels.append(shapes[f"input_blocks.{n - 1}.0.in_layers.2.weight"][0])
        counts.append(n - first)
        depths.append(_count(shapes, f"input_blocks.{n - 1}.1.transformer_blocks.{{}}."))
        n += 1  # over the downsampling
    if not channels:
        raise UserError("the checkpoint's UNet has no blocks: it is not of Stable Diffusion")
    _check_groups(channels, "UNet")
    attended = [bool(depth) for depth in depths]
    middle = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    depths[-1] = _count(shapes, "middle_block.1.transformer_blocks.{}.")
    added = shapes.get("label_emb.0.0.weight")
    return UNetConfig(
        sample_size=sample_size,
        in_channels=_one_of(shapes, "input_blocks.0.0.weight")[1],
        out_channels=_one_of(shapes, "out.2.weight")[0],
        down_block_types=tuple("CrossAttnDownBlock2D" if there else "DownBlock2D" for there in attended),
        up_block_types=tuple("CrossAttnUpBlock2D" if there else "UpBlock2D" for there in reversed(attended)),
        block_out_channels=tuple(channels),
        layers_per_block=_short(counts),
        cross_attention_dim=_one_of(shapes, middle)[1],
        transformer_layers_per_block=_short([depth or 1 for depth in depths]),
        attention_head_dim=_short([_heads(width, "UNet") for width in channels]) if heads is None else heads,
        use_linear_projection=len(_one_of(shapes, "middle_block.1.proj_in.weight")) == 2,
        addition_embed_type=None if added is None else "text_time",
        addition_time_embed_dim=None if added is None else (added[1] - pooled) // _IDS,
        projection_class_embeddings_input_dim=None if added is None else added[1],
    )


def vae_config(shapes: Shapes, *, scaling_factor: float) -> AutoencoderKLConfig:
    """Of an autoencoder.

    Args:
        shapes: by name.
        scaling_factor: of its latents.

    Returns:
        the configuration.
    """
    levels = _count(shapes, "encoder.down.{}.")
    channels = tuple(_one_of(shapes, f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels))
    if not channels:
        raise UserError("the checkpoint's autoencoder has no levels: it is not of Stable Diffusion")
    _check_groups(channels, "autoencoder")
    return AutoencoderKLConfig(
        in_channels=_one_of(shapes, "encoder.conv_in.weight")[1],
        out_channels=_one_of(shapes, "decoder.conv_out.weight")[0],
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=channels,
        layers_per_block=_count(shapes, "encoder.down.0.block.{}."),
        latent_channels=_one_of(shapes, "decoder.conv_in.weight")[1],
        scaling_factor=scaling_factor,
        use_quant_conv="quant_conv.weight" in shapes,
        use_post_quant_conv="post_quant_conv.weight" in shapes,
    )


def _short(by_level: list[int]) -> int | tuple[int, ...]:
    """One number where all levels have the same, as configs are written."""
    return by_level[0] if len(set(by_level)) == 1 else tuple(by_level)


def _count(shapes: Shapes, prefix: str) -> int:
    """How many parts are numbered from 0 on."""
    number = 0
    while any(name.startswith(prefix.format(number)) for name in shapes):
        number += 1
    return number


def _one_of(shapes: Shapes, *names: str) -> tuple[int, ...]:
    found = next((shapes[name] for name in names if name in shapes), None)
    if found is None:
        raise UserError(f"the checkpoint has no {names[0]}: it is not whole, or not of Stable Diffusion")
    return found


def _heads(width: int, what: str) -> int:
    if width % _HEAD:
        raise UserError(_untold(f"its {what} has {width} channels, not a multiple of {_HEAD}, and the number of heads"))
    return width // _HEAD


def _check_groups(channels: tuple[int, ...] | list[int], what: str) -> None:
    if any(width % _GROUPS for width in channels):
        sizes = ", ".join(map(str, channels))
        raise UserError(_untold(f"its {what} has {sizes} channels, not multiples of {_GROUPS}, and the size of groups"))


def _untold(fact: str) -> str:
    return f"a single file does not tell everything: {fact} cannot be guessed; give a folder with its configs (config=)"
