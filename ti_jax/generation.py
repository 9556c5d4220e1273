"""Pictures of prompts that may hold learned words."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Key, UInt8

from ti_jax.compilation import jit
from ti_jax.concepts.chunks import ChunkedPrompts
from ti_jax.concepts.concept import Concept
from ti_jax.concepts.prompts import fold
from ti_jax.conditioning import encode_chunks, picture_sizes, predict
from ti_jax.diffusion.plan import Plan, plan
from ti_jax.diffusion.samplers import sample
from ti_jax.errors import UserError
from ti_jax.inpainting import encode_scene
from ti_jax.pipeline import Pipeline

logger = logging.getLogger(__name__)

Tokens = Mapping[str, ChunkedPrompts]

_BATCH_SIZE = 8
_VECTORS = 8  # a program is compiled for each multiple of so many


def generate(
    pipeline: Pipeline,
    prompts: str | Sequence[str],
    *,
    concepts: Sequence[Concept] = (),
    seed: int = 0,
    steps: int = 50,
    guidance: float = 5.0,
    sampler: str = "ddim",
    negative_prompt: str = "",
    latents: Float[Array | np.ndarray, "n h w c"] | None = None,
    height: int | None = None,
    width: int | None = None,
    num_images: int = 1,
    eta: float = 0.0,
    batch_size: int | None = None,
    long_prompts: str = "cut",
    emphasis: str = "off",
    image: Any = None,
    mask: Any = None,
) -> UInt8[np.ndarray, "n height width 3"]:
    """Draws pictures; a new prompt, word or seed does not compile again.

    Args:
        pipeline: the frozen model.
        prompts: what to draw; one or several.
        concepts: learned words that the prompts and the negative prompt may hold; of one that none holds it warns.
        seed: in [0, 2**32); picture i depends on (seed, i) alone, whatever the batch.
        steps: of the sampler.
        guidance: scale of classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598); 1 and below switch it off.
        sampler: `ddim`, `ddpm`, `dpm++`, `euler` or `euler_a`.
        negative_prompt: what guidance leads away from.
        latents: the initial noise, standard normal, [n, h, w, c] with one a picture; None to draw it.
        height: in pixels, a multiple of the VAE's factor; the model's own if None.
        width: likewise.
        num_images: of each prompt.
        eta: noise that `ddim` adds, in [0, 1].
        batch_size: pictures drawn at a time; None for all of them, but at most 8.
        long_prompts: what to do with a prompt beyond the text encoder's limit: `cut` its end off with a warning, or go
            on in a further `chunk` as A1111 does. All prompts of a call are filled up to the longest.
        emphasis: `off` if brackets are text, `a1111` if `(word:1.2)` weighs a word.
        image: uint8 [h, w, 3] of which a part is painted anew, squeezed to the size that is drawn; for an inpainting
            model, and for it only, as is the mask.
        mask: [h, w], true or white (128 and above) where to paint.

    Returns:
        the pictures: all of the first prompt, all of the second, and so on.

    Raises:
        UserError: if two concepts have the same word, one is of another model, an argument is out of range, or an
            inpainting model is given no picture.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    count = len(texts) * num_images
    if not texts or num_images < 1:
        raise UserError(f"nothing to draw: give a prompt or more, and num_images (now {num_images}) of 1 or more")
    batch = min(_BATCH_SIZE if batch_size is None else batch_size, count)
    if batch < 1:
        raise UserError(f"batch_size = {batch_size}: it is 1 or more")
    run = plan(pipeline.schedule, sampler, steps, eta=eta)
    vectors, placeholders = _join(pipeline, concepts)
    chunked = pipeline.tokenize_chunks(
        [*texts, negative_prompt], placeholders, long_prompts=long_prompts, emphasis=emphasis
    )
    _warn_of_unused(chunked, placeholders)
    tokens = jax.tree.map(lambda x: x[:-1].repeat(num_images, axis=0), chunked)
    negative = jax.tree.map(lambda x: x[-1:], chunked)
    shape = _shape(pipeline, latents, count, height, width)
    scene = encode_scene(pipeline, image, mask, shape[0] * pipeline.factor, shape[1] * pipeline.factor)
    start_key = _start_key(seed)

    images = []
    for first in range(0, count, batch):
        # The last batch is filled up with the last picture, so that it does not compile again.
        rows = np.minimum(np.arange(first, first + batch), count - 1)
        noise, keys = _start(start_key, jnp.asarray(rows), shape)
        if latents is not None:
            noise = jnp.asarray(latents[rows], jnp.float32)
        some = jax.tree.map(lambda x, rows=rows: x[rows], tokens)
        images.append(
            _draw(
                pipeline.networks,
                run,
                vectors,
                some,
                negative,
                noise,
                scene,
                keys,
                jnp.float32(guidance),
                jnp.asarray(pipeline.zeros_for_empty_prompt and not negative_prompt),
                guided=guidance > 1,
            )
        )
    return np.concatenate(images)[:count]


@functools.partial(jit, static_argnames="guided")
def _draw(
    networks: Mapping[str, Any],
    run: Plan,
    vectors: Mapping[str, Float32[Array, "n width"]],
    tokens: Tokens,
    negative: Tokens,
    noise: Float32[Array, "b h w c"],
    scene: Float32[Array, "h w c2"] | None,
    keys: Key[Array, " b"],
    guidance: Float32[Array, ""],
    blank: Bool[Array, ""],
    *,
    guided: bool,
) -> UInt8[Array, "b rows columns 3"]:
    """Prompts to pixels in one dispatch; guidance leads away from zeros, not from the negative prompt, if `blank`."""
    conditions = encode_chunks(networks, tokens, vectors)
    if guided:
        unwanted = encode_chunks(networks, negative, vectors)
        unwanted = jax.tree.map(lambda x: jnp.where(blank, jnp.zeros_like(x), x), unwanted)
        conditions = jax.tree.map(
            lambda away, towards: jnp.concatenate([jnp.broadcast_to(away, towards.shape), towards]),
            unwanted,
            conditions,
        )
    factor = networks["vae"].config.factor
    sizes = picture_sizes(noise.shape[1] * factor, noise.shape[2] * factor)

    def denoise(latents: Float32[Array, "b h w c"], timestep: Float32[Array, ""]) -> Float32[Array, "b h w c"]:
        batch = jnp.concatenate([latents, latents]) if guided else latents
        rows = batch.shape[0]
        if scene is not None:
            batch = jnp.concatenate([batch, jnp.broadcast_to(scene, (rows, *scene.shape))], axis=-1)
        output = predict(
            networks["unet"], batch, jnp.full(rows, timestep), conditions, jnp.broadcast_to(sizes, (rows, 6))
        )
        if not guided:
            return output
        away, towards = jnp.split(output, 2)
        return away + guidance * (towards - away)

    return _decode(networks["vae"], sample(denoise, noise, run, keys))


def _decode(vae: Any, latents: Float32[Array, "b h w c"]) -> UInt8[Array, "b rows columns 3"]:
    """Scaled latents to pixels, one picture at a time: its activations are the largest of all."""
    images = vae.decode_sliced(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0))
    return jnp.round(jnp.clip(images.astype(jnp.float32) / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8)


def _start_key(seed: int) -> Key[Array, ""]:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed = {seed}: it is in [0, 2**32)")
    return jax.random.key(seed, impl="threefry2x32")  # which draws the same under vmap as alone


@functools.partial(jax.jit, static_argnames="shape")
def _start(
    key: Key[Array, ""], indices: Int[Array, " b"], shape: tuple[int, int, int]
) -> tuple[Float32[Array, "b h w c"], Key[Array, " b"]]:
    """Initial noise of pictures by their index, and a key for the noise that the sampler adds to each."""

    def start(index: Array) -> tuple[Array, Array]:
        noise_key, sampler_key = jax.random.split(jax.random.fold_in(key, index))
        return jax.random.normal(noise_key, shape, jnp.float32), sampler_key

    return jax.vmap(start)(indices)


def _shape(
    pipeline: Pipeline,
    latents: Float[Array | np.ndarray, "n h w c"] | None,
    count: int,
    height: int | None,
    width: int | None,
) -> tuple[int, int, int]:
    """Height, width and channels of one picture's latents."""
    if latents is not None and latents.ndim == 4:
        height = latents.shape[1] * pipeline.factor if height is None else height
        width = latents.shape[2] * pipeline.factor if width is None else width
    shape = pipeline.latent_shape(height, width)
    if latents is not None and latents.shape != (count, *shape):
        raise UserError(f"latents are {list(latents.shape)}: {count} pictures of this size want {[count, *shape]}")
    return shape


def _join(
    pipeline: Pipeline, concepts: Sequence[Concept]
) -> tuple[dict[str, Float32[Array, "n width"]], dict[str, int]]:
    """The vectors of all concepts in one array an encoder, and how many each word has."""
    placeholders: dict[str, int] = {}
    for concept in concepts:
        if not isinstance(concept, Concept):
            raise UserError(f"{concept!r} is no concept: give ti_jax.Concept.load(FILE), or an inversion's .concept")
        if fold(concept.placeholder) in map(fold, placeholders):
            raise UserError(
                f"two concepts have the word {concept.placeholder}: write one of them anew with ti-jax convert --token"
            )
        placeholders[concept.placeholder] = concept.num_vectors
    vectors: dict[str, Array] = {}
    for concept in concepts:
        widths = {name: values.shape[1] for name, values in concept.vectors.items()}
        if widths != pipeline.widths:
            found, wanted = (", ".join(f"{k} {v}" for k, v in sizes.items()) for sizes in (widths, pipeline.widths))
            raise UserError(
                f"{concept.placeholder} has vectors of another model: {found}, where this one wants {wanted}"
            )
    for name, width in pipeline.widths.items():
        parts = [np.asarray(concept.vectors[name], np.float32) for concept in concepts]
        joined = np.concatenate([np.zeros((0, width), np.float32), *parts])
        # Filled up with some that no position refers to, so that hardly any word compiles again.
        rows = max(1, -(-len(joined) // _VECTORS)) * _VECTORS
        vectors[name] = jnp.asarray(np.pad(joined, ((0, rows - len(joined)), (0, 0))))
    return vectors, placeholders


def _warn_of_unused(tokens: Tokens, placeholders: Mapping[str, int]) -> None:
    """Names the words that no prompt holds: one that is misspelt there is drawn as plain text."""
    index = next(iter(tokens.values())).tokens.vector_index
    first = 0
    for word, count in placeholders.items():
        if not np.any(index == first):  # the vectors of a word stand together
            logger.warning("no prompt holds the word %s, so that concept draws nothing: write it just so", word)
        first += count
