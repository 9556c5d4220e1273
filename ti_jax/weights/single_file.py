"""A model as one file in the original layout: Stable Diffusion 1 and 2 (CompVis latent-diffusion) and XL (Stability
generative-models)."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ti_jax.errors import UserError
from ti_jax.models.presets import preset
from ti_jax.weights.ldm_config import clip_config, unet_config, vae_config
from ti_jax.weights.ldm_names import open_clip_rules, unet_rules, vae_rules
from ti_jax.weights.loader import LazyTensor
from ti_jax.weights.model_files import ModelFiles, NetworkConfig
from ti_jax.weights.rules import CLIP_TEXT, Rules
from ti_jax.weights.tensors import Rows, open_weights
from ti_jax.weights.tokenizer import clip_tokenizer

logger = logging.getLogger(__name__)

Tensors = dict[str, LazyTensor]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A text encoder in a checkpoint."""

    prefix: str
    kind: Literal["clip", "open_clip"]
    """Whose names it has: OpenAI's as in transformers, or OpenCLIP's."""

    @property
    def padding(self) -> str:
        """The token that its tokenizer pads with."""
        return "<|endoftext|>" if self.kind == "clip" else "!"


@dataclasses.dataclass(frozen=True)
class Family:
    """What tells the checkpoints of a family, and what they leave unsaid."""

    architecture: str
    """The preset that the rest is taken from."""
    encoders: dict[str, Encoder]
    heads: int | None
    """Of the UNet's attention; None for one a 64 channels."""


_SD1 = Family("sd-1.5", {"text_encoder": Encoder("cond_stage_model.transformer.", "clip")}, 8)
_SD2 = Family("sd-2.1", {"text_encoder": Encoder("cond_stage_model.model.", "open_clip")}, None)
_SDXL = Family(
    "sdxl",
    {
        "text_encoder": Encoder("conditioner.embedders.0.transformer.", "clip"),
        "text_encoder_2": Encoder("conditioner.embedders.1.model.", "open_clip"),
    },
    None,
)
_FAMILIES = (_SD1, _SD2, _SDXL)
_OF_THE_PAPER = "cond_stage_model.transformer.attn_layers."
_FIRST, _INPAINTING = "input_blocks.0.0.weight", 9
"""Where a UNet says how many channels it takes, and how many an inpainting one does."""
_MIDDLE = "middle_block.1.proj_in.weight"
"""A convolution in the UNet of Stable Diffusion 1, and a linear layer in the others."""
_NETWORKS = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
_NOT_NEEDED = re.compile(
    r"model_ema\..*|first_stage_model\.(loss|model_ema)\..*|embedding_manager\..*|denoiser\..*|logvar|scale_factor"
    r"|(sqrt_|log_)?(one_minus_)?(sqrt_)?(recipm?1?_)?(betas|alphas_cumprod(_prev)?)|.*alphas_cumprod|posterior_.*"
    r"|lvlb_weights|.*\.logit_scale"
)
"""Averages, losses and tables that training leaves behind."""
_MARKERS = {
    "v_pred": {"prediction_type": "v_prediction"},
    # Steps have to begin at the last timestep, or the noise is as incomplete as before (Lin et al. 2023).
    "ztsnr": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
}
"""Tensors, mostly empty, that speak by their names alone; what ComfyUI, A1111 and Forge understand, as keys of a
scheduler's config."""
_RESBLOCK = re.compile(r"transformer\.resblocks\.(\d{1,4})\.")


def open_single_file(path: Path, *, base: ModelFiles | None, prediction_type: str | None) -> ModelFiles:
    """The model in a checkpoint.

    Args:
        path: of a `.safetensors` or `.ckpt` file.
        base: files of a model whose configs and tokenizers are right for this one. Without them the configs are told
            from the shapes of the tensors, the tokenizer is CLIP's own, and the scheduler the published model's.
        prediction_type: what the UNet predicts, where that is other than the file's markers or `base` say.

    Returns:
        its files.

    Raises:
        UserError: if it is no such checkpoint, does not tell everything, or has noise of another kind.
    """
    found = open_weights(path)
    noise = _noise(path, found) | ({"prediction_type": prediction_type} if prediction_type else {})
    tensors = {name: x for name, x in found.items() if name not in _MARKERS and not _NOT_NEEDED.fullmatch(name)}
    family = _family(path, tensors)
    prefixes = {**{name: encoder.prefix for name, encoder in family.encoders.items()}, **_NETWORKS}
    parts = {network: _without_prefix(tensors, prefix) for network, prefix in prefixes.items()}
    if family is _SD2:
        parts["text_encoder"] = _used_layers(parts["text_encoder"])
    others = [name for name in tensors if not name.startswith(tuple(prefixes.values()))]
    if others:
        logger.warning("%s: %d tensors are of no network here, such as %s", path, len(others), others[0])
    try:
        files = base or _told_by_shapes(path, family, parts, noise.get("prediction_type"))
    except (IndexError, TypeError) as error:
        raise UserError(f"{path} has tensors of other shapes than any Stable Diffusion: it is damaged") from error
    if files.configs.keys() != parts.keys():
        raise UserError(f"{path} has {', '.join(parts)}, and config {', '.join(files.configs)}: they do not match")

    def weights(network: str) -> tuple[Mapping[str, LazyTensor], Rules]:
        config: Any = files.configs[network]
        if network == "unet":
            return parts[network], unet_rules(config)
        if network == "vae":
            return parts[network], vae_rules(config)
        if family.encoders[network].kind == "clip":
            return parts[network], CLIP_TEXT
        return _split_projections(parts[network]), open_clip_rules()

    return dataclasses.replace(files, weights=weights, scheduler={**files.scheduler, **noise})


def _noise(path: Path, tensors: Tensors) -> dict[str, Any]:
    """What markers say of the noise, or its own table, as OneTrainer saves it: keys of a scheduler's config."""
    edm = next((name for name in tensors if name.startswith("edm_")), None)
    if edm is not None:
        raise UserError(
            f"{path} was trained with the noise of EDM ({edm}), as Playground 2.5 and CosXL were: this is not "
            "supported; choose another model"
        )
    last = tensors["alphas_cumprod"].read()[-1] if "alphas_cumprod" in tensors else 1.0
    names = [*tensors, "ztsnr"] if last == 0 else tensors
    return {key: value for name in names for key, value in _MARKERS.get(name, {}).items()}


def _family(path: Path, tensors: Tensors) -> Family:
    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in tensors)

    if has(_OF_THE_PAPER):
        raise UserError(
            f"{path} is the paper's model as one file, which is not supported: give it in diffusers format "
            "(CompVis/ldm-text2im-large-256)"
        )
    for family in _FAMILIES:
        if all(has(encoder.prefix) for encoder in family.encoders.values()):
            missing = [network for network, prefix in _NETWORKS.items() if not has(prefix)]
            if missing:
                raise UserError(f"{path} is not a whole model: it has no {' and no '.join(missing)}")
            return family
    raise UserError(
        f"{path} is not a checkpoint of Stable Diffusion in the original layout (it has {len(tensors)} tensors, "
        f"{'such as ' + next(iter(tensors)) if tensors else 'none'}, and no text encoder that is known): give a "
        "whole checkpoint, or a folder in diffusers format"
    )


def _used_layers(tensors: Tensors) -> Tensors:
    """OpenCLIP without its last layer: Stable Diffusion 2 conditions on the one before.

    Files that were converted from diffusers have neither that layer nor the projection after it; others may have lost
    the projection alone.
    """
    layers = {name: int(match[1]) for name in tensors if (match := _RESBLOCK.match(name))}
    depth = max(layers.values(), default=-1) + 1
    published: Any = preset(_SD2.architecture).text_encoder
    used = min(depth - ("text_projection" in tensors), published.num_hidden_layers)
    return {name: tensor for name, tensor in tensors.items() if layers.get(name, -1) < used}


def _without_prefix(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _told_by_shapes(
    path: Path, family: Family, parts: Mapping[str, Tensors], prediction_type: str | None
) -> ModelFiles:
    """All but the weights."""
    published = preset(family.architecture)
    shapes = {network: {name: tuple(x.shape) for name, x in tensors.items()} for network, tensors in parts.items()}
    if family is _SD1 and len(shapes["unet"].get(_MIDDLE, ())) == 2:
        raise UserError(
            f"{path} has a text encoder that is named as in Stable Diffusion 1, but its UNet is of Stable Diffusion 2: "
            "give a folder with its configs (config=, --model-config)"
        )
    inpaints = shapes["unet"].get(_FIRST, ())[1:2] == (_INPAINTING,)
    prediction = prediction_type or _usual_prediction(path, family, inpaints)
    configs: dict[str, NetworkConfig] = {
        name: clip_config(
            {key.removeprefix("text_model."): shape for key, shape in shapes[name].items()},
            hidden_act="quick_gelu" if encoder.kind == "clip" else "gelu",
            with_projection=name == "text_encoder_2",
        )
        for name, encoder in family.encoders.items()
    }
    second: Any = configs.get("text_encoder_2")
    same_size = preset("sd-2.1-base") if family is _SD2 and prediction == "epsilon" else published
    configs["unet"] = unet_config(
        shapes["unet"],
        heads=family.heads,
        sample_size=same_size.unet.sample_size,
        pooled=second.projection_dim if second else 0,
    )
    configs["vae"] = vae_config(shapes["vae"], scaling_factor=published.vae.scaling_factor)
    return ModelFiles(
        configs=configs,
        weights=lambda network: (parts[network], CLIP_TEXT),  # filled in by the caller
        tokenizer=lambda encoder: clip_tokenizer(padding=family.encoders[encoder].padding),
        scheduler={**published.scheduler, "prediction_type": prediction},
        zeros_for_empty_prompt=family is _SDXL,
    )


def _usual_prediction(path: Path, family: Family, inpaints: bool) -> str:
    if family is _SD2 and not inpaints:  # of which only one was published
        raise UserError(
            f"{path} does not say what its UNet predicts, and Stable Diffusion 2 comes in two kinds: give "
            "prediction_type (--prediction-type) epsilon for the base models of 512 pixels, v_prediction for 768"
        )
    return "epsilon"


def _split_projections(tensors: Tensors) -> Tensors:
    """OpenCLIP's attention has the three projections in one tensor."""
    split: Tensors = {}
    for name, tensor in tensors.items():
        place, joint, kind = name.rpartition(".in_proj_")
        if not joint or not tensor.shape:
            split[name] = tensor
            continue
        third = tensor.shape[0] // 3
        for i, part in enumerate(("q_proj", "k_proj", "v_proj")):
            split[f"{place}.{part}.{kind}"] = Rows(tensor, i * third, (i + 1) * third)
    return split
