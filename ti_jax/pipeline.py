"""A frozen text-to-image model: networks, tokenizers and noise schedule, loaded from a folder or the hub."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from ti_jax.config import InversionDefaults
from ti_jax.diffusion.schedule import NoiseSchedule
from ti_jax.errors import UserError
from ti_jax.models.clip import CLIPTextConfig, CLIPTextModel
from ti_jax.models.config import read_config
from ti_jax.models.unet import UNet2DConditionModel, UNetConfig
from ti_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from ti_jax.weights import rules
from ti_jax.weights.hub import resolve
from ti_jax.weights.loader import abstract_network, load_parameters, parameter_name
from ti_jax.weights.tensors import open_weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_PIPELINES = ("StableDiffusionPipeline",)


@dataclass(frozen=True)
class Precision:
    """Types of the frozen networks; vectors and their optimiser are float32 always."""

    param: str
    """Of the parameters in memory."""
    compute: str
    """Of the activations; norms and softmax are in float32."""


@dataclass(frozen=True)
class Pipeline:
    """A frozen model; made by `load`."""

    networks: dict[str, Any]
    """`text_encoder`, `unet` and `vae`: NNX modules, which are pytrees, to be arguments of jitted functions."""
    tokenizers: dict[str, PreTrainedTokenizerBase]
    """By the encoder they belong to."""
    schedule: NoiseSchedule
    source: str
    """What the user called the model."""
    precision: Precision
    inversion_defaults: InversionDefaults = field(default_factory=InversionDefaults)
    """What an inversion takes where its configuration leaves it to the model."""

    @property
    def max_length(self) -> int:
        """Tokens that a prompt can have, begin and end included."""
        return self.networks["text_encoder"].config.max_position_embeddings

    @property
    def widths(self) -> dict[str, int]:
        """Width of a vector, by encoder."""
        return {name: self.networks[name].config.hidden_size for name in self.tokenizers}

    @property
    def factor(self) -> int:
        """Pixels a latent, in height and in width."""
        return self.networks["vae"].config.factor

    @property
    def resolution(self) -> int:
        """Pixels in height and in width that the model was made for."""
        size = self.networks["unet"].config.sample_size
        if size is None:
            raise UserError("this model does not say its resolution: give one by --resolution")
        return self.factor * (size if isinstance(size, int) else size[0])

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """Height, width and channels of the latents of a picture, of the model's own size if none is given.

        Raises:
            UserError: if a side is not a multiple of `factor`.
        """
        sides = [self.resolution if side is None else side for side in (height, width)]
        for side in sides:
            if side <= 0 or side % self.factor:
                raise UserError(f"{side} pixels are not a multiple of {self.factor}, as this model needs")
        return sides[0] // self.factor, sides[1] // self.factor, self.networks["vae"].config.latent_channels

    def fingerprint(self) -> str:
        """What the model is, for telling whether a run goes on with the same one: a hash of its configs, its
        schedule and an exact checksum of every parameter, computed on the device."""
        leaves = jax.tree_util.tree_flatten_with_path((self.networks, self.schedule))[0]
        lines = [
            f"{parameter_name(path)} {leaf.dtype} {leaf.shape} {value}"
            for (path, leaf), value in zip(leaves, jax.device_get([_checksum(leaf) for _, leaf in leaves]), strict=True)
        ]
        configs = [repr(network.config) for network in self.networks.values()]
        static = [str(self.precision), str(jax.tree.structure(self.schedule))]
        return hashlib.sha256("\n".join(lines + configs + static).encode()).hexdigest()[:16]


@jax.jit
def _checksum(leaf: Array) -> UInt32[Array, ""]:
    """Sum of all bit patterns times odd numbers that tell positions apart, modulo 2**32: exact in any order."""
    width = jnp.dtype(leaf.dtype).itemsize * 8
    bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{width}")).astype(jnp.uint32).ravel()
    odd = 2 * jax.lax.iota(jnp.uint32, bits.size) + jnp.uint32(1)
    return jnp.sum(bits * odd, dtype=jnp.uint32)


def load(
    source: str | Path, *, dtype: str | None = None, variant: str | None = None, revision: str | None = None
) -> Pipeline:
    """Loads a text-to-image model.

    Args:
        source: `tiny` (bundled), a folder in diffusers format, or an id on the Hugging Face hub.
        dtype: float32, bfloat16 or float16, of parameters and computation; None for what suits the device.
        variant: of the weight files, such as `fp16`.
        revision: branch, tag or commit on the hub.

    Returns:
        the frozen model, on the default device.

    Raises:
        UserError: if there is no such model, a file of it is missing or damaged, or it has an option that is not
            implemented.
    """
    folder = resolve(str(source), variant=variant, revision=revision)
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") not in _PIPELINES:
        raise UserError(f"{source} is a {index.get('_class_name')}: only {', '.join(_PIPELINES)} can be loaded")
    precision = _precision(dtype)
    logger.info("%s: parameters in %s, computation in %s", source, precision.param, precision.compute)

    def network(name: str, stem: str, kind: Callable[..., Any], config: Any, table: rules.Rules) -> Any:
        types = {"dtype": jnp.dtype(precision.compute), "param_dtype": jnp.dtype(precision.param)}
        abstract = abstract_network(functools.partial(kind, config, **types))
        tensors = open_weights(folder / name, stem, variant=variant)
        return load_parameters(abstract, tensors, table, param_dtype=types["param_dtype"], what=f"{source}/{name}")

    def config(name: str) -> dict[str, Any]:
        return _read_json(folder / name / "config.json")

    text, unet, vae = config("text_encoder"), config("unet"), config("vae")
    model = "diffusion_pytorch_model"
    return Pipeline(
        networks={
            "text_encoder": network(
                "text_encoder", "model", CLIPTextModel, CLIPTextConfig.from_dict(text), rules.CLIP_TEXT
            ),
            "unet": network("unet", model, UNet2DConditionModel, UNetConfig.from_dict(unet), rules.UNET),
            "vae": network("vae", model, AutoencoderKL, AutoencoderKLConfig.from_dict(vae), rules.VAE),
        },
        tokenizers={"text_encoder": _load_tokenizer(folder / "tokenizer")},
        schedule=NoiseSchedule.from_config(_latent_scheduler(_read_json(folder / "scheduler/scheduler_config.json"))),
        source=str(source),
        precision=precision,
        inversion_defaults=_inversion_defaults(folder),
    )


def _precision(dtype: str | None) -> Precision:
    """What was asked for, or what suits the default device."""
    if dtype is not None:
        if dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f"dtype {dtype!r} is not known: choose float32, bfloat16 or float16")
        return Precision(dtype, dtype)
    device = jax.devices()[0]
    if device.platform == "cpu":
        return Precision("float32", "float32")
    if device.platform == "gpu" and float(getattr(device, "compute_capability", "8.0")) < 8.0:
        return Precision("float16", "float16")
    return Precision("bfloat16", "bfloat16")


def _latent_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's config as diffusers' `StableDiffusionPipeline` corrects it: latents are not pictures, so nothing is
    clipped to [-1, 1], and timesteps are offset by one.

    diffusers swaps a scheduler with the clipping switched on again where the file does not mention it; we never clip.
    """
    corrected = {**config, "clip_sample": False}
    if "steps_offset" in config or config.get("_class_name") == "DDIMScheduler":
        corrected["steps_offset"] = 1
    return corrected


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import CLIPTokenizer  # slow to import

    if not folder.is_dir():
        raise UserError(f"{folder} is missing: a model needs its tokenizer")
    try:
        return CLIPTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder} holds no tokenizer that can be read (tokenizer.json, or vocab.json and merges.txt)"
        ) from error


def _inversion_defaults(folder: Path) -> InversionDefaults:
    """Settings that were measured to suit a model, kept beside it in `inversion.json`."""
    file = folder / "inversion.json"
    if not file.exists():
        return InversionDefaults()
    return read_config(InversionDefaults, _read_json(file), neutral={}, what=str(file))


def _read_json(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise UserError(f"{file} is missing: {file.parent} is not, or not all of, a pipeline in diffusers format")
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): download or copy it again") from error
