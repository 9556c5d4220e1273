"""A frozen text-to-image model: networks, tokenizers and noise schedule, loaded from a folder or the hub."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from ti_jax.concepts.prompts import TokenizedPrompts, tokenize
from ti_jax.config import InversionDefaults
from ti_jax.diffusion.schedule import NoiseSchedule
from ti_jax.errors import UserError
from ti_jax.models.clip import CLIPTextConfig, CLIPTextModel
from ti_jax.models.config import read_config
from ti_jax.models.unet import UNet2DConditionModel, UNetConfig
from ti_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from ti_jax.weights import rules
from ti_jax.weights.checksum import checksum
from ti_jax.weights.hub import resolve
from ti_jax.weights.index import read_components, read_json
from ti_jax.weights.layout import find_weights
from ti_jax.weights.loader import abstract_network, load_parameters, parameter_name
from ti_jax.weights.tensors import open_weights
from ti_jax.weights.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


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
        limits = (self.networks[name].config.max_position_embeddings for name in self.tokenizers)
        return min(*limits, *(tokenizer.model_max_length for tokenizer in self.tokenizers.values()))

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

    def tokenize(
        self,
        prompts: Sequence[str],
        placeholders: Mapping[str, int],
        *,
        overflow: Literal["error", "warn"] = "warn",
    ) -> dict[str, TokenizedPrompts]:
        """Prompts as each text encoder takes them; see `concepts.prompts.tokenize`.

        Args:
            prompts: any text.
            placeholders: number of vectors by word.
            overflow: what to do with a prompt that is too long.

        Returns:
            by encoder.
        """
        return {
            name: tokenize(
                prompts,
                tokenizer,
                placeholders,
                max_length=self.max_length,
                overflow=overflow,
                eos_token_id=self.networks[name].config.eos_token_id,
            )
            for name, tokenizer in self.tokenizers.items()
        }

    def fingerprint(self) -> str:
        """What the model is, for telling whether a run goes on with the same one: a hash of its configs,
        schedule, vocabularies and precision, and of an exact checksum of every parameter."""
        leaves = jax.tree_util.tree_flatten_with_path((self.networks, self.schedule))[0]
        lines = [f"{parameter_name(path)} {leaf.dtype} {leaf.shape} {checksum(leaf)}" for path, leaf in leaves]
        lines += [repr(network.config) for network in self.networks.values()]
        lines += [str(self.precision), str(jax.tree.structure(self.schedule))]
        lines += [str(sorted(tokenizer.get_vocab().items())) for tokenizer in self.tokenizers.values()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


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
    folder, source = resolve(str(source), variant=variant, revision=revision), str(source)
    components = read_components(folder, source=source)
    precision = _precision(dtype)
    logger.info("%s: parameters in %s, computation in %s", source, precision.param, precision.compute)

    configs = {
        # Its class decides on the projection, whatever the encoder was called when it was part of something else.
        "text_encoder": CLIPTextConfig.from_dict(
            {**_config(folder, "text_encoder"), "architectures": [components["text_encoder"]]}
        ),
        "unet": UNetConfig.from_dict(_config(folder, "unet")),
        "vae": AutoencoderKLConfig.from_dict(_config(folder, "vae")),
    }
    scheduler = {**_scheduler_config(folder), "_class_name": components["scheduler"]}
    tokenizer = load_tokenizer(folder / "tokenizer")
    _check_fit(source, configs, len(tokenizer))

    types = {"dtype": jnp.dtype(precision.compute), "param_dtype": jnp.dtype(precision.param)}

    def network(name: str, kind: Callable[..., Any], table: rules.Rules) -> Any:
        abstract = abstract_network(functools.partial(kind, configs[name], **types))
        tensors = open_weights(find_weights(folder / name, variant=variant))
        return load_parameters(abstract, tensors, table, param_dtype=types["param_dtype"], what=f"{source}/{name}")

    return Pipeline(
        networks={
            "text_encoder": network("text_encoder", CLIPTextModel, rules.CLIP_TEXT),
            "unet": network("unet", UNet2DConditionModel, rules.UNET),
            "vae": network("vae", AutoencoderKL, rules.VAE),
        },
        tokenizers={"text_encoder": tokenizer},
        schedule=NoiseSchedule.from_config(_latent_scheduler(scheduler)),
        source=source,
        precision=precision,
        inversion_defaults=_inversion_defaults(folder),
    )


def _config(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name / "config.json")


def _scheduler_config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "scheduler" / "scheduler_config.json")


def _check_fit(source: str, configs: Mapping[str, Any], words: int) -> None:
    """Raises UserError unless the parts of a model belong together."""
    text, unet, vae = configs["text_encoder"], configs["unet"], configs["vae"]
    contexts = unet.cross_attention_dim if isinstance(unet.cross_attention_dim, tuple) else (unet.cross_attention_dim,)
    if (unet.in_channels, unet.out_channels) != (vae.latent_channels,) * 2:
        raise UserError(
            f"{source}: its UNet takes {unet.in_channels} channels and gives {unet.out_channels}, but latents have "
            f"{vae.latent_channels}: inpainting, depth and upscaling models are not supported"
        )
    if set(contexts) != {text.hidden_size}:
        raise UserError(
            f"{source}: its UNet wants a context {contexts[0]} wide, and its text encoder gives {text.hidden_size}"
        )
    if words > text.vocab_size:
        raise UserError(f"{source}: its tokenizer has {words} words, and its text encoder {text.vocab_size}")


def _precision(dtype: str | None) -> Precision:
    """What was asked for, or what suits the default device."""
    if dtype is None:
        dtype = _natural_type(jax.devices()[0])
    elif dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype {dtype!r} is not known: choose float32, bfloat16 or float16")
    return Precision(dtype, dtype)


def _natural_type(device: Any) -> str:
    """The type of networks that a device is quickest with and that is safe on it."""
    if device.platform == "cpu":
        return "float32"
    capability = re.fullmatch(r"\d+\.\d+", str(getattr(device, "compute_capability", "")))  # only NVIDIA's are numbers
    return "float16" if capability and float(capability[0]) < 8.0 else "bfloat16"


def _latent_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's config as diffusers' `StableDiffusionPipeline` corrects it: latents are not pictures, so nothing is
    clipped to [-1, 1], and timesteps are offset by one.

    diffusers swaps a scheduler with the clipping switched on again where the file does not mention it; we never clip.
    """
    corrected = {**config, "clip_sample": False}
    if "steps_offset" in config or config.get("_class_name") == "DDIMScheduler":
        corrected["steps_offset"] = 1
    return corrected


def _inversion_defaults(folder: Path) -> InversionDefaults:
    """Settings that were measured to suit a model, kept beside it in `inversion.json`."""
    file = folder / "inversion.json"
    if not file.exists():
        return InversionDefaults()
    return read_config(InversionDefaults, read_json(file), neutral={}, what=str(file))
