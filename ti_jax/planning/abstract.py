"""A model, and a run of it, as shapes alone: no weight is read and no array made."""

from __future__ import annotations

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ti_jax.concepts.prompts import TokenizedPrompts
from ti_jax.config import InversionConfig
from ti_jax.data.captions import count_prompts
from ti_jax.errors import UserError
from ti_jax.inversion.bounds import Bounds
from ti_jax.inversion.draws import concept_key
from ti_jax.inversion.slots import SlotInputs, SlotState, initial_state
from ti_jax.models.presets import PRESETS
from ti_jax.pipeline import Pipeline, open_model
from ti_jax.weights.model_files import ModelFiles
from ti_jax.weights.tokenizer import clip_tokenizer

_USUAL_PICTURES = 5


def open_architecture(model: str, **options: Any) -> ModelFiles:
    """The configs of a model, with or without weights.

    Args:
        model: a name of `models.presets`, or what `load` takes.
        options: of `open_model`.

    Returns:
        the configs; those of a preset come with CLIP's tokenizer, of whose prompts only the length matters here.

    Raises:
        UserError: if there is no such model.
    """
    if model not in PRESETS:
        return open_model(model, weights=False, **options)
    preset = PRESETS[model]
    parts = {name: getattr(preset, name) for name in ("text_encoder", "text_encoder_2", "unet", "vae")}

    def no_weights(network: str) -> NoReturn:
        raise UserError(f"{model} is an architecture without weights")

    return ModelFiles(
        configs={name: config for name, config in parts.items() if config is not None},
        weights=no_weights,
        tokenizer=lambda encoder: clip_tokenizer(padding="!"),
        scheduler=preset.scheduler,
    )


def likely_bounds(pipeline: Pipeline, config: InversionConfig) -> Bounds:
    """What a slot has room for, before there is a queue.

    Args:
        pipeline: whose templates are taken.
        config: what `bounds` leaves open is taken from elsewhere in it: prompts from its templates, vectors from
            `num_vectors`. A concept has five pictures.

    Returns:
        the sizes of a usual concept.
    """
    stated = config.bounds
    pictures = stated.pictures or _USUAL_PICTURES
    prompts = count_prompts(config.data, "<word>", pipeline.inversion_defaults.templates) or pictures
    return Bounds(pictures, stated.prompts or prompts, stated.vectors or config.num_vectors or 1)


def chunk_arguments(pipeline: Pipeline, config: InversionConfig, slots: int, bounds: Bounds, mesh: Mesh) -> tuple:
    """What `chunk_program` is called with by the engine, as shapes, types and places.

    Args:
        pipeline: whose networks may be abstract.
        config: with the model's defaults filled in.
        slots: how many.
        bounds: what a slot has room for.
        mesh: of the devices.

    Returns:
        its arguments.
    """
    everywhere, by_slot = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("concepts")))
    frozen = {name: network for name, network in pipeline.networks.items() if name != "vae"}
    norms = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in pipeline.widths}
    state, inputs = jax.eval_shape(lambda: _slots(pipeline, config, slots, bounds))
    return (
        *_placed((frozen, pipeline.schedule, norms), everywhere),
        *_placed((state, inputs), by_slot),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
    )


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _slots(pipeline: Pipeline, config: InversionConfig, slots: int, bounds: Bounds) -> tuple[SlotState, SlotInputs]:
    """State and inputs of empty slots."""
    resolution = config.data.resolution or pipeline.resolution
    latents = (slots, bounds.pictures, 2 if config.data.flip else 1, *pipeline.latent_shape(resolution, resolution))
    length = pipeline.max_length
    inputs = SlotInputs(
        key=jax.vmap(lambda _: concept_key(0, "concept"))(jnp.arange(slots)),
        total_steps=jnp.zeros(slots, jnp.int32),
        learning_rate=jnp.zeros(slots, jnp.float32),
        latent_mean=jnp.zeros(latents, jnp.float32),
        latent_std=jnp.zeros(latents, jnp.float32),
        num_pictures=jnp.zeros(slots, jnp.int32),
        sizes=jnp.zeros((slots, bounds.pictures, 6), jnp.float32),
        prompts={
            name: TokenizedPrompts(
                ids=jnp.zeros((slots, bounds.prompts, length), jnp.int32),
                vector_index=jnp.zeros((slots, bounds.prompts, length), jnp.int32),
                pool_index=jnp.zeros((slots, bounds.prompts), jnp.int32),
            )
            for name in pipeline.widths
        },
        first_prompt=jnp.zeros((slots, bounds.pictures), jnp.int32),
        num_prompts=jnp.zeros((slots, bounds.pictures), jnp.int32),
        vector_mask={name: jnp.zeros((slots, bounds.vectors), bool) for name in pipeline.widths},
    )
    vectors = {name: jnp.zeros((slots, bounds.vectors, width), jnp.float32) for name, width in pipeline.widths.items()}
    return initial_state(vectors, config), inputs
