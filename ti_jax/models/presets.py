"""Architectures by name: shapes without weights, as the `config.json` files of the published models have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ti_jax.errors import UserError
from ti_jax.models.bert import LDMBertConfig
from ti_jax.models.clip import CLIPTextConfig
from ti_jax.models.unet import UNetConfig
from ti_jax.models.vae import AutoencoderKLConfig


@dataclass(frozen=True)
class Preset:
    """The configurations of a model's networks, and its scheduler's."""

    text_encoder: CLIPTextConfig | LDMBertConfig
    unet: UNetConfig
    vae: AutoencoderKLConfig
    scheduler: Mapping[str, Any]
    """As in `scheduler_config.json`."""
    text_encoder_2: CLIPTextConfig | None = None
    """SDXL has one."""


_VAE = AutoencoderKLConfig(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=2,
)
_NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_CLIP_L = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
_OPEN_CLIP_H = CLIPTextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,  # of 24: the last is not used
    num_attention_heads=16,
    hidden_act="gelu",
)


def _sd2_unet(sample_size: int) -> UNetConfig:
    return UNetConfig(
        sample_size=sample_size,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )


_OPEN_CLIP_BIG_G = CLIPTextConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=20,
    hidden_act="gelu",
    projection_dim=1280,
    with_projection=True,
)
_SDXL_UNET = UNetConfig(
    sample_size=128,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(320, 640, 1280),
    cross_attention_dim=768 + 1280,
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=1280 + 6 * 256,
)


PRESETS: Mapping[str, Preset] = {
    "sd-1.5": Preset(
        _CLIP_L,
        UNetConfig(sample_size=64, cross_attention_dim=768),
        _VAE,
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **_NOISE},
    ),
    "sd-2.1": Preset(
        _OPEN_CLIP_H, _sd2_unet(96), _VAE, {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction", **_NOISE}
    ),
    "sd-2.1-base": Preset(_OPEN_CLIP_H, _sd2_unet(64), _VAE, {"_class_name": "PNDMScheduler", **_NOISE}),
    "sdxl": Preset(
        _CLIP_L,
        _SDXL_UNET,
        dataclasses.replace(_VAE, scaling_factor=0.13025),
        {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **_NOISE},
        _OPEN_CLIP_BIG_G,
    ),
    "ldm": Preset(
        LDMBertConfig(), UNetConfig(sample_size=32), _VAE, {"_class_name": "DDIMScheduler", **_NOISE, "steps_offset": 0}
    ),
}


def preset(name: str) -> Preset:
    """An architecture.

    Args:
        name: `sd-1.5`, `sd-2.1` (768 pixels, v-prediction), `sd-2.1-base` (512 pixels), `sdxl`, or `ldm` (the paper's
            text2img-large).

    Returns:
        its configurations.

    Raises:
        UserError: if the name is not known.
    """
    if name not in PRESETS:
        raise UserError(f"there is no architecture {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
