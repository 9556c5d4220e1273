"""What every verb takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from ti_jax.concepts.concept import Concept
    from ti_jax.pipeline import Pipeline

SamplerName = Literal["ddim", "ddpm", "dpm++", "euler", "euler_a"]
Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class Common:
    """Options of every verb."""

    model: str = "tiny"
    """`tiny` (bundled), an id on the hub, a folder in diffusers format, or a `.safetensors` or `.ckpt` file."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    variant: str | None = None
    """Variant of the weight files, such as `fp16`."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the networks. Unset: what suits the device."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    """What the UNet predicts, where the model's files do not say."""
    model_config: str | None = None
    """For a model in a single file: a folder or hub id in diffusers format, for configs and tokenizers."""
    tokenizer: str | None = None
    """A folder or hub id to take the tokenizer from instead of the model's own."""
    deterministic: bool = False
    """Same bits in every run on a GPU too, for some speed; elsewhere they are the same always."""
    output: str | None = None
    """Folder for results. Unset: runs/NAME for invert and invert-many, images for generate, none for others."""
    config: str | None = None
    """A Python file whose `get_config()` gives settings, which other options override: an `InversionConfig` for invert,
    invert-many and plan, a dictionary of options for generate."""
    json: bool = False
    """Print the result as JSON on stdout."""
    debug: bool = False
    """Show tracebacks and debug messages."""

    def model_options(self) -> list[str]:
        """The words of a command line that name this model again: `--model`, and what else is not left as it is."""
        names = ("revision", "variant", "dtype", "prediction_type", "model_config", "tokenizer")
        options = {f"--{name.replace('_', '-')}": getattr(self, name) for name in ("model", *names)}
        return [word for option in options.items() if option[1] is not None for word in option]

    def load_pipeline(self) -> Pipeline:
        """The model that the options name."""
        import ti_jax

        if self.deterministic:  # read when the first device is asked for, which loading does
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
        return ti_jax.load(
            self.model,
            dtype=self.dtype,
            variant=self.variant,
            revision=self.revision,
            prediction_type=self.prediction_type,
            config=self.model_config,
            tokenizer=self.tokenizer,
        )


def in_output(common: Common, file: str) -> str:
    """Where a file goes that was named by itself: into `--output`, if that is given."""
    return os.path.join(common.output or "", file)


def load_concepts(path: str, token: str | None = None) -> list[Concept]:
    """The concepts of an embedding file or of a run folder; with a token, the one under that word."""
    from ti_jax.concepts import formats

    return formats.read_all(path) if token is None else [formats.read(path, token=token)]
