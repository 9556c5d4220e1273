"""Draws depend on (seed, concept, step, example) and on nothing else, and are of the right distribution."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ti_jax.concepts.prompts import TokenizedPrompts
from ti_jax.inversion.draws import concept_key, draw_examples, fixed_examples
from ti_jax.inversion.slots import SlotInputs

TIMESTEPS = 1000
MANY = 4000
FIRST, COUNT = [0, 2, 3], [2, 1, 4]  # prompts of each picture


def _concept(pictures=3, *, flips=2, name="fox", seed=0):
    """Picture p has latents p, its mirror image 10 + p, and a deviation of (1 + p) / 10; prompt t is its own number."""
    mean = np.arange(pictures, dtype=np.float32)[:, None] + np.array([0, 10], np.float32)[:flips]
    std = np.broadcast_to((1 + np.arange(pictures, dtype=np.float32))[:, None] / 10, (pictures, flips))
    shape = (pictures, flips, 2, 2, 1)
    prompts = np.broadcast_to(np.arange(7, dtype=np.int32)[:, None], (7, 5))
    return SlotInputs(
        key=concept_key(seed, name),
        total_steps=jnp.int32(1),
        learning_rate=jnp.float32(1),
        latent_mean=jnp.asarray(np.broadcast_to(mean[:, :, None, None, None], shape)),
        latent_std=jnp.asarray(np.broadcast_to(std[:, :, None, None, None], shape)),
        num_pictures=jnp.int32(3),
        sizes=jnp.zeros((pictures, 6), jnp.float32).at[:, 0].set(jnp.arange(pictures, dtype=jnp.float32)),
        prompts={"text_encoder": TokenizedPrompts(jnp.asarray(prompts), jnp.asarray(prompts), jnp.arange(7))},
        first_prompt=jnp.asarray(FIRST + [0] * (pictures - 3), jnp.int32),
        num_prompts=jnp.asarray(COUNT + [0] * (pictures - 3), jnp.int32),
        vector_mask={"text_encoder": jnp.ones(1, bool)},
    )


def _draw(concept, step=5, indices=range(MANY)):
    return draw_examples(concept, jnp.int32(step), jnp.asarray(list(indices)), TIMESTEPS)


@pytest.fixture(scope="module")
def drawn():
    return _draw(_concept())


def test_key_is_that_of_the_design():
    number = int.from_bytes(hashlib.sha256(b"fox").digest()[:4], "big")
    expected = jax.random.fold_in(jax.random.key(3, impl="threefry2x32"), number)
    np.testing.assert_array_equal(jax.random.key_data(concept_key(3, "fox")), jax.random.key_data(expected))


def test_an_example_is_the_same_in_any_batch_and_beside_padding(drawn):
    some = [3, 1, 77]
    for concept in (_concept(), _concept(pictures=6)):
        alone = _draw(concept, indices=some)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b)[some]), alone, drawn)


@pytest.mark.parametrize("other", [{"name": "vixen"}, {"seed": 1}, {"step": 6}])
def test_another_concept_seed_or_step_draws_otherwise(drawn, other):
    step = other.pop("step", 5)
    assert not np.array_equal(_draw(_concept(**other), step=step).noise, drawn.noise)


def test_distributions(drawn):
    """Within four standard errors of what they should be."""
    noise = np.asarray(drawn.noise).ravel()
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)
    timesteps = np.asarray(drawn.timesteps)
    assert 0 <= timesteps.min() < 5
    assert TIMESTEPS - 5 < timesteps.max() < TIMESTEPS
    assert abs(timesteps.mean() - (TIMESTEPS - 1) / 2) < 4 * TIMESTEPS / np.sqrt(12 * MANY)
    latents = np.asarray(drawn.latents)
    nearest = np.round(latents.mean(axis=(1, 2, 3))).astype(int)
    pictures, flips = nearest % 10, nearest // 10
    for picture in range(3):
        assert abs((pictures == picture).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / MANY)
        deviations = (latents - nearest[:, None, None, None])[pictures == picture]
        expected = (1 + picture) / 10
        assert abs(deviations.std() - expected) < 4 * expected / np.sqrt(2 * deviations.size)
        prompts = np.asarray(drawn.prompts["text_encoder"].ids)[pictures == picture, 0]
        assert set(prompts) == set(range(FIRST[picture], FIRST[picture] + COUNT[picture]))
    assert abs(flips.mean() - 0.5) < 4 * 0.5 / np.sqrt(MANY)


def test_without_flips_no_picture_is_drawn_mirrored():
    """Latents whose left and right differ, so that a flip would show; what is drawn tells its picture by its prompt."""
    own = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 1, 2, 2, 1)
    concept = _concept(flips=1)
    drawn = _draw(concept._replace(latent_mean=jnp.asarray(own), latent_std=jnp.zeros_like(own)))
    pictures = np.repeat(range(3), COUNT)[np.asarray(drawn.prompts["text_encoder"].ids)[:, 0]]
    assert set(pictures) == {0, 1, 2}
    np.testing.assert_array_equal(drawn.latents, own[pictures, 0])


def test_fixed_set_takes_pictures_prompts_and_timesteps_in_turn():
    fixed = fixed_examples(_concept(), jnp.arange(8), 8, TIMESTEPS)
    np.testing.assert_array_equal(fixed.timesteps, [62, 187, 312, 437, 562, 687, 812, 937])
    np.testing.assert_array_equal(fixed.latents[:, 0, 0, 0], [0, 1, 2, 0, 1, 2, 0, 1])
    np.testing.assert_array_equal(fixed.prompts["text_encoder"].ids[:, 0], [0, 2, 3, 1, 2, 4, 0, 2])
    assert len(np.unique(np.asarray(fixed.noise), axis=0)) == 8
