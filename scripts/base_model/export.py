"""Writes trained networks as diffusers and transformers write theirs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import save

from ti_jax.files import write_bytes, write_text
from ti_jax.models.clip import CLIPTextConfig
from ti_jax.models.clip_vision import CLIPConfig
from ti_jax.models.unet import UNetConfig
from ti_jax.models.vae import AutoencoderKLConfig
from ti_jax.weights import rules
from ti_jax.weights.loader import export_parameters

_DIFFUSERS_VERSION = "0.42.1"
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": _DIFFUSERS_VERSION,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "rescale_betas_zero_snr": False,
}
_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": _DIFFUSERS_VERSION,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_INVERSION = {
    "steps": 150,
    "learning_rate": 0.01,
    "preview_prompts": [
        "a picture of a {}",
        "a {} on a blue background",
        "a small {} in the top left",
        "a {} and a pizza",
    ],
}
_PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 64, "width": 64},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 64},
}


def write_vae(folder: Path, vae: nnx.Module, config: AutoencoderKLConfig, *, dtype: str = "float16") -> None:
    """The autoencoder's folder."""
    facts = {"_class_name": "AutoencoderKL", "_diffusers_version": _DIFFUSERS_VERSION, "sample_size": 64}
    _write_json(folder / "config.json", {**facts, **dataclasses.asdict(config)})
    _write_weights(folder / "diffusion_pytorch_model.safetensors", vae, rules.VAE, dtype)


def write_unet(folder: Path, unet: nnx.Module, config: UNetConfig, *, dtype: str = "float16") -> None:
    """The UNet's folder."""
    facts = {"_class_name": "UNet2DConditionModel", "_diffusers_version": _DIFFUSERS_VERSION}
    _write_json(folder / "config.json", {**facts, **dataclasses.asdict(config)})
    _write_weights(folder / "diffusion_pytorch_model.safetensors", unet, rules.UNET, dtype)


def write_text_encoder(folder: Path, encoder: nnx.Module, config: CLIPTextConfig, *, dtype: str = "float16") -> None:
    """The text encoder's folder."""
    facts = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "dtype": dtype}
    _write_json(folder / "config.json", {**facts, **_text_values(config)})
    _write_weights(folder / "model.safetensors", encoder, rules.CLIP_TEXT, dtype)


def write_clip(folder: Path, clip: nnx.Module, config: CLIPConfig, *, dtype: str = "float16") -> None:
    """The folder of both towers of CLIP, with how pictures are prepared for it; its tokenizer saves itself."""
    facts = {"architectures": ["CLIPModel"], "model_type": "clip", "dtype": dtype}
    towers = {
        "text_config": {"model_type": "clip_text_model", **_text_values(config.text)},
        "vision_config": {"model_type": "clip_vision_model", **dataclasses.asdict(config.vision)},
        "projection_dim": config.projection_dim,
    }
    _write_json(folder / "config.json", {**facts, **towers})
    _write_json(folder / "preprocessor_config.json", _PREPROCESSOR)
    _write_weights(folder / "model.safetensors", clip, rules.CLIP, dtype)


def write_classifier(file: Path, classifier: nnx.Module, *, dtype: str = "float16") -> None:
    """The judge's file; its layers are a UNet's."""
    _write_weights(file, classifier, rules.UNET, dtype)


def write_pipeline(folder: Path) -> None:
    """The index of a text-to-image model, its scheduler and its inversions' settings, beside the networks' folders."""
    _write_json(folder / "model_index.json", _INDEX)
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write_json(folder / "inversion.json", _INVERSION)


def _text_values(config: CLIPTextConfig) -> dict[str, Any]:
    values = {"bos_token_id": 0, "pad_token_id": 1, **dataclasses.asdict(config)}
    return {name: value for name, value in values.items() if name != "with_projection"}


def _write_weights(path: Path, model: nnx.Module, table: rules.Rules, dtype: str) -> None:
    tensors = export_parameters(jax.tree.map(lambda leaf: np.asarray(leaf, dtype), model), table)
    write_bytes(path, save(tensors, metadata={"format": "pt"}))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
