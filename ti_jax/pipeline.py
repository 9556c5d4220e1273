"""A frozen text-to-image model: networks, tokenizers and noise schedule, loaded from a folder or the hub."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from ti_jax.compilation import give_memory_back, keep_compiled_programs
from ti_jax.concepts.chunks import ChunkedPrompts, tokenize_chunks
from ti_jax.concepts.prompts import TokenizedPrompts, tokenize
from ti_jax.config import InversionDefaults
from ti_jax.diffusion.schedule import NoiseSchedule
from ti_jax.errors import UserError
from ti_jax.models.bert import LDMBertConfig, LDMBertModel
from ti_jax.models.clip import CLIPTextConfig, CLIPTextModel
from ti_jax.models.products import kernel_type
from ti_jax.models.unet import UNet2DConditionModel, UNetConfig
from ti_jax.models.vae import AutoencoderKL, AutoencoderKLConfig
from ti_jax.weights.checksum import checksum
from ti_jax.weights.folder import open_folder
from ti_jax.weights.hub import resolve, resolve_tokenizer
from ti_jax.weights.loader import abstract_network, load_parameters, parameter_name
from ti_jax.weights.model_files import ModelFiles, NetworkConfig
from ti_jax.weights.single_file import open_single_file
from ti_jax.weights.tokenizer import load_tokenizers

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
    vae: str
    """Of the autoencoder, parameters and activations: SDXL's overflows in float16."""


@dataclass(frozen=True)
class Pipeline:
    """A frozen model; made by `load`."""

    networks: dict[str, Any]
    """`text_encoder`, `unet`, `vae`, and SDXL's `text_encoder_2`: NNX modules, which are pytrees, to be arguments of
    jitted functions."""
    tokenizers: dict[str, PreTrainedTokenizerBase]
    """By the encoder they belong to."""
    schedule: NoiseSchedule
    source: str
    """What the user called the model."""
    precision: Precision
    inversion_defaults: InversionDefaults = field(default_factory=InversionDefaults)
    """What an inversion takes where its configuration leaves it to the model."""
    zeros_for_empty_prompt: bool = False
    """Whether zeros stand for an empty negative prompt, as in SDXL."""

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
    def inpaints(self) -> bool:
        """Whether the UNet is also told a mask and the latents of the picture around it."""
        return self.networks["unet"].config.in_channels != self.networks["vae"].config.latent_channels

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

    def tokenize_chunks(
        self, prompts: Sequence[str], placeholders: Mapping[str, int], *, long_prompts: str, emphasis: str
    ) -> dict[str, ChunkedPrompts]:
        """Prompts of any length, with weights, as each text encoder takes them; see `concepts.chunks.tokenize_chunks`.

        Args:
            prompts: any text.
            placeholders: number of vectors by word.
            long_prompts: `cut` or `chunk`.
            emphasis: `off` or `a1111`.

        Returns:
            by encoder.
        """
        return {
            name: tokenize_chunks(
                prompts,
                tokenizer,
                placeholders,
                max_length=self.max_length,
                long_prompts=long_prompts,
                emphasis=emphasis,
                eos_token_id=self.networks[name].config.eos_token_id,
            )
            for name, tokenizer in self.tokenizers.items()
        }

    @functools.cached_property
    def token_tables(self) -> dict[str, Float32[np.ndarray, "vocabulary width"]]:
        """The frozen token embeddings in host memory, by encoder."""
        networks = {name: self.networks[name] for name in self.tokenizers}
        return {
            name: np.asarray(network.embed(jnp.arange(network.config.vocab_size)), np.float32)
            for name, network in networks.items()
        }

    @functools.cached_property
    def vocabulary_norms(self) -> dict[str, float]:
        """Median Euclidean norm of the token embeddings, by encoder."""
        return {name: float(np.median(np.linalg.norm(table, axis=-1))) for name, table in self.token_tables.items()}

    @functools.cached_property
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
    source: str | Path,
    *,
    dtype: str | None = None,
    variant: str | None = None,
    revision: str | None = None,
    prediction_type: str | None = None,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> Pipeline:
    """Loads a text-to-image model.

    Args:
        source: `tiny` (bundled), a folder in diffusers format, an id on the Hugging Face hub, or a single file
            (`.safetensors` or `.ckpt`) of Stable Diffusion 1, 2 or XL in the original layout.
        dtype: float32, bfloat16 or float16, of parameters and computation; None for what suits the device. On a CPU,
            kernels in float32 are rounded if JAX is set to products in bfloat16 (`products.kernel_type`).
        variant: of the weight files, such as `fp16`.
        revision: branch, tag or commit on the hub.
        prediction_type: `epsilon`, `v_prediction` or `sample`: what the UNet predicts, where that is other than the
            model's files say. A single file of Stable Diffusion 2 does not say it.
        config: for a single file: a folder or hub id of a model in diffusers format whose configs and tokenizers are
            right for it; without one they are told from the file.
        tokenizer: a folder or hub id to take the tokenizers from instead, such as `bert-base-uncased`.

    Returns:
        the frozen model, on the default device. From here on compiled programs are kept; see `compilation`.

    Raises:
        UserError: if there is no such model, a file of it is missing or damaged, or it has an option that is not
            implemented.
    """
    keep_compiled_programs()
    give_memory_back()
    files = open_model(
        str(source),
        variant=variant,
        revision=revision,
        prediction_type=prediction_type,
        config=config,
        tokenizer=tokenizer,
    )
    device = jax.devices()[0]
    pipeline = abstract_pipeline(str(source), files, dtype=dtype, device=device)
    precision = pipeline.precision
    of_kernels = jnp.dtype(kernel_type(jnp.dtype(precision.param), device.platform)).name
    kernels = "" if of_kernels == precision.param else f" (kernels in {of_kernels})"
    logger.info("%s: parameters in %s%s, computation in %s", source, precision.param, kernels, precision.compute)

    def filled(name: str, network: Any) -> Any:
        tensors, table = files.weights(name)
        param_dtype = jnp.dtype(precision.vae if name == "vae" else precision.param)
        types = {"param_dtype": param_dtype, "kernel_dtype": kernel_type(param_dtype, device.platform)}
        return load_parameters(network, tensors, table, **types, what=f"{source}/{name}")

    return replace(pipeline, networks={name: filled(name, network) for name, network in pipeline.networks.items()})


def open_model(
    source: str,
    *,
    variant: str | None = None,
    revision: str | None = None,
    prediction_type: str | None = None,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    weights: bool = True,
) -> ModelFiles:
    """A model's configs and tokenizers, checked; no weight is read. Arguments and errors are those of `load`, and
    without `weights` none are fetched either."""
    path = resolve(source, variant=variant, revision=revision, weights=weights)
    if path.is_dir():
        if config is not None:
            raise UserError(f"{source} is a folder, which has configs of its own: leave config out")
        files = open_folder(path, source=source, variant=variant)
    else:
        base = None if config is None else open_folder(resolve(str(config), weights=False), source=str(config))
        files = open_single_file(path, base=base, prediction_type=prediction_type)
    if tokenizer is None:
        tokenizers = {name: files.tokenizer(name) for name in files.encoders}
    else:
        tokenizers = load_tokenizers(resolve_tokenizer(str(tokenizer)), files.encoders)
    files = replace(files, tokenizer=tokenizers.__getitem__)
    if prediction_type is not None:
        files = replace(files, scheduler={**files.scheduler, "prediction_type": prediction_type})
    _check_fit(source, files, {name: len(words) for name, words in tokenizers.items()})
    return files


def abstract_pipeline(source: str, files: ModelFiles, *, dtype: str | None, device: Any) -> Pipeline:
    """A model whose parameters are shapes and types.

    Args:
        source: what the user called the model.
        files: from `open_model`.
        dtype: of parameters and computation; None for what suits the device.
        device: that it is for, which need not be here.

    Returns:
        the model, to be compiled or to be filled.

    Raises:
        UserError: if there is no such type.
    """
    precision = _precision(dtype, device, sdxl="text_encoder_2" in files.configs)

    def network(name: str, config: NetworkConfig) -> Any:
        param, compute = (precision.vae,) * 2 if name == "vae" else (precision.param, precision.compute)
        types = {"dtype": jnp.dtype(compute), "param_dtype": jnp.dtype(param)}
        try:
            return abstract_network(functools.partial(NETWORKS[type(config)], config, **types))
        except (ArithmeticError, TypeError, ValueError) as error:
            raise UserError(f"{source}/{name}: nothing can be built of the sizes in its config ({error})") from error

    return Pipeline(
        networks={name: network(name, config) for name, config in files.configs.items()},
        tokenizers={name: files.tokenizer(name) for name in files.encoders},
        schedule=NoiseSchedule.from_config(files.scheduler),
        source=source,
        precision=precision,
        inversion_defaults=files.inversion_defaults,
        zeros_for_empty_prompt=files.zeros_for_empty_prompt,
    )


NETWORKS: dict[type, Callable[..., Any]] = {
    CLIPTextConfig: CLIPTextModel,
    LDMBertConfig: LDMBertModel,
    UNetConfig: UNet2DConditionModel,
    AutoencoderKLConfig: AutoencoderKL,
}
"""What is built from a config."""


def _check_fit(source: str, files: ModelFiles, words: Mapping[str, int]) -> None:
    """Raises UserError unless the parts of a model belong together."""
    configs: Mapping[str, Any] = files.configs
    unet, vae = configs["unet"], configs["vae"]
    encoders = {name: configs[name] for name in files.encoders}
    width = sum(encoder.hidden_size for encoder in encoders.values())
    contexts = unet.cross_attention_dim if isinstance(unet.cross_attention_dim, tuple) else (unet.cross_attention_dim,)
    latents = vae.latent_channels
    if unet.in_channels not in (latents, 2 * latents + 1) or unet.out_channels != latents:
        raise UserError(
            f"{source}: its UNet takes {unet.in_channels} channels and gives {unet.out_channels}, but latents have "
            f"{latents}: depth, upscaling and editing models are not supported"
        )
    if set(contexts) != {width}:
        raise UserError(
            f"{source}: its UNet wants a context {contexts[0]} wide, and its text encoder"
            f"{'s give' if len(encoders) > 1 else ' gives'} {width}"
        )
    _check_added(source, unet, configs.get("text_encoder_2"))
    for name, encoder in encoders.items():
        if words[name] > encoder.vocab_size:
            raise UserError(f"{source}: its tokenizer has {words[name]} words, and its {name} {encoder.vocab_size}")


def _check_added(source: str, unet: UNetConfig, second: CLIPTextConfig | None) -> None:
    """Raises UserError unless the second text encoder gives what the UNet wants beside the context."""
    if (unet.addition_embed_type is None) != (second is None):
        raise UserError(f"{source}: a UNet with addition_embed_type wants two text encoders, and one without it one")
    if second is None:
        return
    assert unet.addition_time_embed_dim is not None
    pooled = second.projection_dim if second.with_projection else second.hidden_size
    given = pooled + 6 * unet.addition_time_embed_dim
    if given != unet.projection_class_embeddings_input_dim:
        raise UserError(
            f"{source}: its UNet wants {unet.projection_class_embeddings_input_dim} numbers beside the context, and "
            f"its second text encoder and the sizes make {given}"
        )


def _precision(dtype: str | None, device: Any, *, sdxl: bool) -> Precision:
    """What was asked for, or what suits the device."""
    if dtype is None:
        dtype = _natural_type(device)
    elif dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype {dtype!r} is not known: choose float32, bfloat16 or float16")
    return Precision(dtype, dtype, "float32" if sdxl and dtype == "float16" else dtype)


def _natural_type(device: Any) -> str:
    """The type of networks that a device is quickest with and that is safe on it."""
    if device.platform == "cpu":
        return "float32"
    capability = re.fullmatch(r"\d+\.\d+", str(getattr(device, "compute_capability", "")))  # only NVIDIA's are numbers
    return "float16" if capability and float(capability[0]) < 8.0 else "bfloat16"
