"""Making a concept ready for a slot: pictures to latents, prompts to ids, initialiser to vectors; all on the host."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ti_jax.concepts.initialization import check_placeholder, initial_vectors
from ti_jax.concepts.prompts import TokenizedPrompts, fold
from ti_jax.config import ConceptSpec, InversionConfig, as_dict
from ti_jax.data.captions import prompts_for
from ti_jax.data.latents import encode_pictures
from ti_jax.data.pictures import Picture, load_pictures
from ti_jax.errors import UserError
from ti_jax.inversion.draws import concept_key
from ti_jax.inversion.slots import INITIAL_STREAM, SlotInputs
from ti_jax.pipeline import Pipeline


@dataclass(frozen=True)
class Prepared:
    """A concept made ready."""

    spec: ConceptSpec
    pictures: list[Picture]
    vectors: dict[str, np.ndarray]
    """By encoder, float32 [n, width]: where the optimisation starts."""
    inputs: SlotInputs
    """For one slot, without the axis of slots and without padding."""
    identity: dict[str, Any]
    """What shapes the trajectory, as JSON values; a resume compares it."""

    @property
    def fingerprint(self) -> str:
        """A short hash of the identity."""
        return _digest(np.frombuffer(json.dumps(self.identity, sort_keys=True).encode(), np.uint8))


def prepare(pipeline: Pipeline, spec: ConceptSpec, config: InversionConfig) -> Prepared:
    """Everything a slot needs to learn a concept.

    Args:
        pipeline: the frozen model.
        spec: the concept.
        config: with the model's defaults and what the concept has of its own filled in.

    Returns:
        the concept made ready.

    Raises:
        UserError: if pictures, prompts, those of previews included, placeholder or initialiser are no good; nothing has
            been written by then.
    """
    key = concept_key(config.seed, spec.name)
    resolution = config.data.resolution or pipeline.resolution
    pipeline.latent_shape(resolution, resolution)  # refuses what the model cannot take
    pictures = load_pictures(
        spec.pictures,
        resolution=resolution,
        crop=config.data.crop,
        skip_bad=config.data.skip_bad,
    )
    vectors = initial_vectors_of(pipeline, spec, config, key)
    prompts = prompts_for(
        pictures,
        spec.placeholder,
        config.data.prompts,
        config.data.templates,
        pipeline.inversion_defaults.templates,
    )
    placeholders = {spec.placeholder: len(next(iter(vectors.values())))}
    tokens = pipeline.tokenize(prompts.texts, placeholders, overflow="error")
    if config.preview_prompts:  # drawn when the word is learned: too late to say that they cannot be
        pipeline.tokenize([p.replace("{}", spec.placeholder) for p in config.preview_prompts], placeholders)
        if config.preview_steps > (most := pipeline.schedule.num_timesteps):
            raise UserError(f"preview-steps is {config.preview_steps}: this model takes {most} at most")
    mean, std = encode_pictures(pipeline.networks["vae"], np.stack([picture.pixels for picture in pictures]))
    flips = 2 if config.data.flip else 1
    assert config.steps is not None  # filled in by with_model_defaults
    inputs = SlotInputs(
        key=key,
        total_steps=jnp.int32(config.steps),
        learning_rate=jnp.float32(config.optimizer.learning_rate),
        latent_mean=jnp.asarray(mean[:, :flips]),
        latent_std=jnp.asarray(std[:, :flips]),
        num_pictures=jnp.int32(len(pictures)),
        sizes=jnp.asarray(
            [[*picture.size, *picture.crop, resolution, resolution] for picture in pictures], jnp.float32
        ),
        prompts=tokens,
        first_prompt=jnp.asarray(prompts.first, jnp.int32),
        num_prompts=jnp.asarray(prompts.count, jnp.int32),
        vector_mask={name: jnp.ones(len(v), bool) for name, v in vectors.items()},
    )
    return Prepared(spec, pictures, vectors, inputs, _identity(pipeline, spec, config, pictures, tokens, vectors))


def initial_vectors_of(
    pipeline: Pipeline, spec: ConceptSpec, config: InversionConfig, key: Array
) -> dict[str, np.ndarray]:
    """Where a concept's vectors start, by encoder; see `concepts.initialization.initial_vectors`."""
    vectors: dict[str, np.ndarray] = {}
    if fold(spec.initializer) == fold(spec.placeholder):
        raise UserError(f"{spec.initializer} is the new word itself: begin with a word that the model knows (--init)")
    key = jax.random.fold_in(key, jnp.uint32(INITIAL_STREAM))
    for index, (name, tokenizer) in enumerate(pipeline.tokenizers.items()):
        check_placeholder(spec.placeholder, tokenizer)
        vectors[name] = np.asarray(
            initial_vectors(
                spec.initializer,
                config.num_vectors,
                pipeline.token_tables[name],
                tokenizer,
                jax.random.fold_in(key, index) if index else key,
                encoder=name,
            )
        )
    return vectors


def _identity(
    pipeline: Pipeline,
    spec: ConceptSpec,
    config: InversionConfig,
    pictures: list[Picture],
    tokens: dict[str, TokenizedPrompts],
    vectors: dict[str, np.ndarray],
) -> dict[str, Any]:
    identity: dict[str, Any] = {
        "name": spec.name,
        "placeholder": spec.placeholder,
        "pictures": {f"{i} {picture.name}": _digest(picture.pixels) for i, picture in enumerate(pictures)},
        "prompts": _digest(*jax.tree.leaves(tokens)),
        "initial_vectors": _digest(*jax.tree.leaves(vectors)),
        "num_vectors": {name: len(v) for name, v in vectors.items()},
        "flip": config.data.flip,
        **settings_identity(pipeline, config),
    }
    if config.optimizer.schedule != "constant":
        identity["steps"] = as_dict(config)["steps"]  # a schedule that falls depends on where it ends
    return json.loads(json.dumps(identity))


def settings_identity(pipeline: Pipeline, config: InversionConfig) -> dict[str, Any]:
    """The model, and the settings that shape every concept's trajectory, as JSON values."""
    settings = as_dict(config)
    shaping = (
        *("batch_size", "gradient_accumulation", "seed", "min_snr_gamma", "norm_control", "optimizer"),
        "fixed_set_size",  # chooses the best vectors
    )
    identity = {"model": pipeline.fingerprint, **{name: settings[name] for name in shaping}}
    if config.stopping.rule != "none":  # which depends on when the loss is taken
        identity["stopping"] = {**settings["stopping"], "every": config.evaluate_every}
    return identity


def _digest(*arrays: np.ndarray) -> str:
    """A short hash of arrays, their shapes and types included."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
