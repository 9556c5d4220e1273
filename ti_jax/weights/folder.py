"""A model as a folder in diffusers format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ti_jax.config import InversionDefaults
from ti_jax.models.bert import LDMBertConfig
from ti_jax.models.clip import CLIPTextConfig
from ti_jax.models.config import read_config
from ti_jax.models.unet import UNetConfig
from ti_jax.models.vae import AutoencoderKLConfig
from ti_jax.weights.index import Index, Part, read_index, read_json
from ti_jax.weights.layout import find_weights
from ti_jax.weights.loader import LazyTensor
from ti_jax.weights.model_files import RULES, ModelFiles, NetworkConfig
from ti_jax.weights.rules import Rules
from ti_jax.weights.tensors import open_weights
from ti_jax.weights.tokenizer import load_tokenizer

_STABLE_DIFFUSION = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")


def open_folder(folder: Path, *, source: str, variant: str | None = None) -> ModelFiles:
    """The files of a pipeline.

    Args:
        folder: with a `model_index.json`.
        source: what the user called it, for messages.
        variant: of the weight files, such as `fp16`.

    Returns:
        the files; those with weights are looked for when they are asked for.

    Raises:
        UserError: if a file is missing or damaged, or asks for what is not implemented.
    """
    index = read_index(folder, source=source)
    parts = index.parts

    configs = {name: _config(folder, part, index.pipeline) for name, part in parts.items() if part.is_network}

    def weights(network: str) -> tuple[Mapping[str, LazyTensor], Rules]:
        file = find_weights(folder / parts[network].folder, variant=variant)
        return open_weights(file), RULES[type(configs[network])]

    scheduler = {**read_json(folder / "scheduler/scheduler_config.json"), "_class_name": parts["scheduler"].kind}
    return ModelFiles(
        configs=configs,
        weights=weights,
        tokenizer=lambda encoder: load_tokenizer(folder / encoder.replace("text_encoder", "tokenizer")),
        scheduler=_latent_scheduler(scheduler, index.pipeline),
        inversion_defaults=_inversion_defaults(folder),
        zeros_for_empty_prompt=_zeros_for_empty_prompt(index),
    )


def _config(folder: Path, part: Part, pipeline: str) -> NetworkConfig:
    values = read_json(folder / part.folder / "config.json")
    if part.kind == "UNet2DConditionModel":
        return UNetConfig.from_dict(_of_true_size(values, pipeline))
    if part.kind == "AutoencoderKL":
        return AutoencoderKLConfig.from_dict(values)
    if part.kind == "LDMBertModel":
        return LDMBertConfig.from_dict(values)
    # Its class decides on the projection, whatever the encoder was called when it was part of something else.
    return CLIPTextConfig.from_dict({**values, "architectures": [part.kind]})


def _of_true_size(unet: dict[str, Any], pipeline: str) -> dict[str, Any]:
    """A UNet's config as diffusers' pipelines correct it: before its 0.9, Stable Diffusion's was converted with the
    size of the paper's model, 32."""
    size, version = unet.get("sample_size"), str(unet.get("_diffusers_version", ""))
    is_old = version.startswith(tuple(f"0.{minor}." for minor in range(9)))
    if pipeline in _STABLE_DIFFUSION and is_old and isinstance(size, int) and size < 64:
        return {**unet, "sample_size": 64}
    return unet


def _latent_scheduler(config: Mapping[str, Any], pipeline: str) -> dict[str, Any]:
    """A scheduler's config as diffusers' pipelines correct it: latents are not pictures, so nothing is clipped to
    [-1, 1], and those of Stable Diffusion 1 and 2 offset timesteps by one.

    Where the file mentions neither, a diffusers pipeline loses both again when it is given another scheduler's class.
    """
    offset = {"steps_offset": 1} if pipeline in _STABLE_DIFFUSION else {}
    return {**config, "clip_sample": False, **offset}


def _zeros_for_empty_prompt(index: Index) -> bool:
    """What a pipeline says of it, or the default of SDXL's pipelines."""
    default = index.pipeline.startswith("StableDiffusionXL")
    return bool(index.options.get("force_zeros_for_empty_prompt", default))


def _inversion_defaults(folder: Path) -> InversionDefaults:
    """Settings that were measured to suit a model, kept beside it in `inversion.json`."""
    file = folder / "inversion.json"
    if not file.exists():
        return InversionDefaults()
    return read_config(InversionDefaults, read_json(file), neutral={}, what=str(file))
