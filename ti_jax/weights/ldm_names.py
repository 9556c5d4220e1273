"""Names in checkpoints of the original layout (CompVis latent-diffusion, Stability generative-models): to diffusers'
and transformers' names, as tables of patterns that the loader's rules take."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from ti_jax.models.unet import UNetConfig
from ti_jax.models.vae import AutoencoderKLConfig
from ti_jax.weights import rules
from ti_jax.weights.rules import Rule, Rules

Names = tuple[tuple[str, str], ...]

_UNET = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE = {
    "encoder.norm_out": "encoder.conv_norm_out",
    "decoder.norm_out": "decoder.conv_norm_out",
    "encoder.mid": "encoder.mid_block",
    "decoder.mid": "decoder.mid_block",
}
_VAE_INSIDE = {
    "mid_block.block_1": "mid_block.resnets.0",
    "mid_block.block_2": "mid_block.resnets.1",
    "mid_block.attn_1": "mid_block.attentions.0",
    "attentions.0.norm": "attentions.0.group_norm",
    "attentions.0.q": "attentions.0.to_q",
    "attentions.0.k": "attentions.0.to_k",
    "attentions.0.v": "attentions.0.to_v",
    "attentions.0.proj_out": "attentions.0.to_out.0",
    "nin_shortcut": "conv_shortcut",
}
_OPEN_CLIP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding": "embeddings.token_embedding",
    "ln_final": "final_layer_norm",
    "transformer.resblocks": "encoder.layers",
}
_OPEN_CLIP_INSIDE = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn": "self_attn",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def unet_rules(config: UNetConfig) -> Rules:
    """Rules for `model.diffusion_model.*`, without that prefix."""
    levels = len(config.block_out_channels)
    layers = config.layers_per_block
    counts = layers if isinstance(layers, tuple) else (layers,) * levels
    return dataclasses.replace(
        rules.UNET, old_names=(*_starts(_unet_blocks(counts)), *_starts(_UNET), *_insides(_UNET_RESNET))
    )


def _unet_blocks(counts: Sequence[int]) -> dict[str, str]:
    """Blocks are numbered through in the file, and by level in ours.

    Args:
        counts: residual blocks of each level.
    """
    places: dict[str, str] = {}
    n = 0
    for level, count in enumerate(counts):
        for i in range(count):
            n += 1
            places[f"input_blocks.{n}.0"] = f"down_blocks.{level}.resnets.{i}"
            places[f"input_blocks.{n}.1"] = f"down_blocks.{level}.attentions.{i}"
        n += 1
        places[f"input_blocks.{n}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
    n = -1
    for level, count in enumerate(reversed(counts)):
        for i in range(count + 1):
            n += 1
            places[f"output_blocks.{n}.0"] = f"up_blocks.{level}.resnets.{i}"
            places[f"output_blocks.{n}.1"] = f"up_blocks.{level}.attentions.{i}"
        for after in (1, 2):  # residual block, attention
            places[f"output_blocks.{n}.{after}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return places


def vae_rules(config: AutoencoderKLConfig) -> Rules:
    """Rules for `first_stage_model.*`, without that prefix."""
    places = dict(_VAE)
    levels = len(config.block_out_channels)
    for level in range(levels):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        places[f"encoder.down.{level}.block"] = f"{down}.resnets"
        places[f"encoder.down.{level}.downsample"] = f"{down}.downsamplers.0"
        places[f"decoder.up.{level}.block"] = f"{up}.resnets"
        places[f"decoder.up.{level}.upsample"] = f"{up}.upsamplers.0"
    return dataclasses.replace(rules.VAE, old_names=(*_starts(places), *_insides(_VAE_INSIDE)))


def open_clip_rules() -> Rules:
    """Rules for OpenCLIP's text transformer, whose joint projections have been split into three."""
    return Rules(
        # No linear layer but a matrix, which is the other way round.
        (*rules.CLIP_TEXT.rules, Rule("text_projection", "text_projection.kernel", legacy=True)),
        old_names=(*_starts(_OPEN_CLIP), *_insides(_OPEN_CLIP_INSIDE)),
        ignore=(
            "logit_scale",
            "attn_mask",
            "text_projection",
            r"(transformer\.)?(text_model\.)?embeddings\.position_ids",
        ),
    )


def _starts(names: dict[str, str]) -> Names:
    """Patterns for whole parts at the beginning of a name, longer ones first."""
    ordered = sorted(names.items(), key=lambda item: len(item[0]), reverse=True)
    return tuple((rf"^{re.escape(theirs)}(?=\.|$)", ours) for theirs, ours in ordered)


def _insides(names: dict[str, str]) -> Names:
    """Patterns for whole parts anywhere in a name."""
    return tuple((rf"(?<=\.){re.escape(theirs)}(?=\.)", ours) for theirs, ours in names.items())
