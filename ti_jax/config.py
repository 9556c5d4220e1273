"""What a user may set, as frozen dataclasses.

Imports no jax: the command line builds its `--help` from this file. A field's docstring is its help text.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import arg

from ti_jax.errors import UserError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


_CALLED = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", tuple: "a tuple of texts"}


def _check_types(settings: Any) -> None:
    """Refuses what is of another type than its field, or none of its choices: Python itself would take it, and fail
    where it is used."""
    for name, kind in _kinds(type(settings)).items():
        value = getattr(settings, name)
        if not _fits(value, kind):
            raise UserError(f"{name.replace('_', '-')} is {value!r}: {_wanted(kind)}")


@functools.cache
def _kinds(settings: type) -> dict[str, Any]:
    return get_type_hints(settings)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; numbers may be NumPy's."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, tuple | list) and all(_fits(item, parts[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def _wanted(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _wanted(parts[0])
    if origin is Literal:
        return f"choose one of {', '.join(parts)}"
    return f"give {_CALLED.get(origin or kind) or kind.__name__}"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW on the concept's vectors alone, always in float32."""

    learning_rate: Annotated[float | None, arg(aliases=("--learning-rate",))] = None
    """Peak step size. Unset: the model's default (5e-3 for Stable Diffusion: the paper's, before it is scaled)."""
    scale_learning_rate: bool = False
    """Multiply the rate, also one that a concept has of its own, by batch size x gradient accumulation, as the official
    code does."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate goes from its peak to the last step; linear and cosine end at zero."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly from zero."""
    beta1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the second moment, in [0, 1)."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled decay towards zero, per step and unit of rate."""
    max_grad_norm: float | None = None
    """Clip the gradient of a concept to this global norm. Unset: no clipping."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(
            self.learning_rate is None or self.learning_rate > 0,
            f"optimizer.learning-rate is {self.learning_rate}: give a number above 0, such as 5e-3",
        )
        _require(self.warmup_steps >= 0, "optimizer.warmup-steps must be 0 or more")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"optimizer.{name} must be in [0, 1)")
        _require(self.epsilon > 0, "optimizer.epsilon must be above 0")
        _require(self.weight_decay >= 0, "optimizer.weight-decay must be 0 or more")
        _require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            "optimizer.max-grad-norm must be above 0 (leave it unset for no clipping)",
        )


@dataclass(frozen=True)
class InversionDefaults:
    """What a user leaves to the model; these suit Stable Diffusion, and another model may keep its own beside it."""

    steps: int = 3000
    """Optimiser steps."""
    learning_rate: float = 5e-3
    """Peak rate."""
    templates: tuple[str, ...] | None = None
    """Prompts that the model understands, `{}` for the word; the paper's object templates if None."""
    preview_prompts: tuple[str, ...] = ("a photo of {}", "a photo of {} on the moon", "an oil painting of {}")
    """What previews, the contact sheet and `evaluate` draw; the first shows the word alone."""


PromptKind = Literal["model", "object", "style", "captions"]


@dataclass(frozen=True)
class DataConfig:
    """How pictures and prompts are made ready."""

    resolution: Annotated[int | None, arg(aliases=("--resolution",))] = None
    """Side of the square training pictures in pixels. Unset: the model's own."""
    crop: Literal["center", "squash"] = "center"
    """Cut out the middle square, or squash the whole picture into one."""
    flip: bool = True
    """Show each picture mirrored half of the time. Switch off for text, logos and faces with a parting."""
    prompts: Annotated[PromptKind, arg(aliases=("--prompts",))] = "model"
    """The model's own templates (for Stable Diffusion those for objects), the paper's templates for objects or for
    styles, or `picture.txt` beside each picture."""
    templates: Annotated[str | None, arg(aliases=("--templates",))] = None
    """A text file of templates, one a line, `{}` for the word; replaces `prompts`."""
    skip_bad: Annotated[bool, arg(aliases=("--skip-bad",))] = False
    """Leave out pictures that cannot be read instead of stopping."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(
            self.resolution is None or self.resolution > 0,
            "data.resolution must be a number of pixels above 0",
        )


@dataclass(frozen=True)
class StoppingConfig:
    """When a concept is done before its last step."""

    rule: Annotated[Literal["none", "dvar"], arg(aliases=("--early-stopping",))] = "none"
    """Take all steps, or stop when the loss on the fixed set has settled (DVAR, arXiv 2302.04841): the variance of its
    latest values is below `threshold` times the variance of all."""
    window: int = 310
    """Steps over which the latest values are taken."""
    threshold: float = 0.15
    """DVAR's epsilon; smaller stops later."""

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self.window >= 1, "stopping.window must be 1 or more")
        _require(self.threshold > 0, "stopping.threshold must be above 0")


@dataclass(frozen=True)
class BoundsConfig:
    """What a slot has room for. Concepts of different sizes share one compiled program, padded to these."""

    pictures: int | None = None
    """Unset: as many as the largest concept of the queue has."""
    prompts: int | None = None
    """Prompts that explain one concept. Unset: as many as the largest has."""
    vectors: int | None = None
    """Unset: as many as the largest concept has."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("pictures", "prompts", "vectors"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"bounds.{name} must be 1 or more")


@dataclass(frozen=True)
class InversionConfig:
    """One inversion; what is unset is the model's to say."""

    steps: int | None = None
    """Optimiser steps. Unset: the model's default (3,000 for Stable Diffusion, 150 for the bundled model)."""
    batch_size: Annotated[int, arg(aliases=("--batch",))] = 4
    """Examples in one forward and backward pass."""
    gradient_accumulation: int = 1
    """Passes averaged into one optimiser step."""
    num_vectors: int | None = None
    """Embedding vectors of the new word. Unset: as many as the initialiser has tokens."""
    seed: int = 0
    """Seed of every random draw, in [0, 2**32)."""
    min_snr_gamma: float | None = None
    """Weigh timesteps by min(SNR, gamma) (Hang et al. 2023, arXiv 2303.09556); 5 is usual. Unset: the plain loss."""
    norm_control: Literal["none", "median"] = "none"
    """After each step leave the vectors' norms, or rescale them to the vocabulary's median."""
    remat: Literal["none", "blocks", "everything"] = "none"
    """What the backward pass computes again instead of keeping it, for the sake of memory: nothing, what is inside of
    the UNet's residual blocks and transformers, or also what is between them inside of a level."""
    evaluate_every: int = 20
    """Steps between losses on the fixed set of examples, which choose the best vectors and warn early."""
    fixed_set_size: int = 8
    """Examples in the fixed set."""
    checkpoint_every: int = 100
    """Steps between checkpoints; a killed run loses at most that many."""
    save_every: int = 0
    """Steps between `learned_embeds-steps-N.safetensors` and preview pictures; 0 for none."""
    preview_prompts: tuple[str, ...] | None = None
    """What previews and the contact sheet draw; `{}` is the word. Unset: what suits the model."""
    preview_steps: int = 25
    """Sampling steps of a preview."""
    profile: bool = False
    """Record the second chunk of steps (the first compiles) in OUTPUT/profile, for XProf or Perfetto."""
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    bounds: BoundsConfig = field(default_factory=BoundsConfig)

    def __post_init__(self) -> None:
        _check_types(self)
        for name in (
            "batch_size",
            "gradient_accumulation",
            "evaluate_every",
            "fixed_set_size",
            "checkpoint_every",
            "preview_steps",
        ):
            _require(getattr(self, name) >= 1, f"{name.replace('_', '-')} must be 1 or more")
        _require(self.steps is None or self.steps >= 1, "steps must be 1 or more")
        _require(self.num_vectors is None or self.num_vectors >= 1, "num-vectors must be 1 or more")
        _require(self.save_every >= 0, "save-every must be 0 (never) or more")
        _require(0 <= self.seed < 2**32, "seed must be in [0, 2**32)")
        _require(
            self.min_snr_gamma is None or self.min_snr_gamma > 0,
            "min-snr-gamma must be above 0 (leave it unset for the plain loss)",
        )
        for prompt in self.preview_prompts or ():
            _require("{}" in prompt, f"preview prompt {prompt!r} has no {{}} for the word")


_LONGEST_NAME = 200
"""Bytes; a file that is being written adds 54, and file systems take 255."""


@dataclass(frozen=True)
class ConceptSpec:
    """A concept to be learned."""

    name: str
    """Names the run folder and, by its SHA-256, the random stream."""
    placeholder: str
    """The new word as it will stand in prompts, such as `<fox>`."""
    initializer: str
    """A word or phrase to start from, `random`, or an embedding file or run folder."""
    pictures: Any
    """A folder, a list of files, `bundled:NAME`, or arrays uint8 [h, w, 3]."""
    steps: int | None = None
    """This and what follows replaces, for this concept, what the configuration says for all."""
    learning_rate: float | None = None
    num_vectors: int | None = None
    templates: str | None = None
    prompts: PromptKind | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        _require(
            self.name == concept_name(self.name),
            f"the name {self.name!r} is one of files: give letters, digits, - and _, such as {concept_name(self.name)}",
        )
        _require(
            len(self.name.encode()) <= _LONGEST_NAME,
            f"the name {self.name[:20]}... is too long for a file: give one of {_LONGEST_NAME} bytes or less",
        )
        _require(self.steps is None or self.steps >= 1, f"{self.name}: steps must be 1 or more")
        _require(self.num_vectors is None or self.num_vectors >= 1, f"{self.name}: num_vectors must be 1 or more")
        _require(self.learning_rate is None or self.learning_rate > 0, f"{self.name}: learning_rate must be above 0")


def concept_name(placeholder: str) -> str:
    """A name for files and the random stream: the placeholder without what a file name should not have."""
    return re.sub(r"[^\w.-]+", "-", placeholder).strip("-.") or "concept"


def for_concept(config: InversionConfig, spec: ConceptSpec) -> InversionConfig:
    """The configuration of one concept: what holds for all, less what the concept has of its own.

    Args:
        config: with the model's defaults filled in.
        spec: the concept.

    Returns:
        a configuration to prepare the concept with.
    """
    data, optimizer = config.data, config.optimizer
    if spec.templates is not None:
        data = dataclasses.replace(data, templates=spec.templates)
    elif spec.prompts is not None:  # templates for all would win over it
        data = dataclasses.replace(data, prompts=spec.prompts, templates=None)
    if spec.learning_rate is not None:
        optimizer = dataclasses.replace(optimizer, learning_rate=_scaled(spec.learning_rate, config))
    return dataclasses.replace(
        config,
        steps=config.steps if spec.steps is None else spec.steps,
        num_vectors=config.num_vectors if spec.num_vectors is None else spec.num_vectors,
        data=data,
        optimizer=optimizer,
    )


def with_model_defaults(config: InversionConfig, defaults: InversionDefaults) -> InversionConfig:
    """The configuration with what the user left to the model filled in.

    Args:
        config: as the user gave it.
        defaults: the model's.

    Returns:
        a configuration whose `steps`, `preview_prompts` and `optimizer.learning_rate` are set. The rate is scaled
        already where `optimizer.scale_learning_rate` says so, which is kept for the rates that concepts have of their
        own (`for_concept`).
    """
    rate = defaults.learning_rate if config.optimizer.learning_rate is None else config.optimizer.learning_rate
    return dataclasses.replace(
        config,
        steps=defaults.steps if config.steps is None else config.steps,
        preview_prompts=defaults.preview_prompts if config.preview_prompts is None else config.preview_prompts,
        optimizer=dataclasses.replace(config.optimizer, learning_rate=_scaled(rate, config)),
    )


def _scaled(rate: float, config: InversionConfig) -> float:
    """A peak rate for the examples of a step, if the configuration says that it is for one."""
    return rate * config.batch_size * config.gradient_accumulation if config.optimizer.scale_learning_rate else rate


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values, for the run folder; numbers of numpy become Python's."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=lambda number: number.item()))


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every value of two nested mappings that is not the same.

    Args:
        before: what was.
        after: what is.
        prefix: put before each key, for nesting.

    Returns:
        one line a difference, in the order of the keys.
    """
    lines: list[str] = []
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            lines.append(f"{prefix}{key}: {old} -> {new}")
    return lines
