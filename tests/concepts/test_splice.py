"""Vectors in the place of embeddings, against a plain loop and finite differences."""

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from ti_jax.concepts.splice import splice

BATCH, LENGTH, WIDTH, VECTORS = 3, 7, 5, 4


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32),
        rng.normal(size=(BATCH, VECTORS, WIDTH)).astype(np.float32),
        rng.integers(-1, VECTORS, size=(BATCH, LENGTH)).astype(np.int32),
    )


def _loop(embeddings, vectors, vector_index):
    out = np.array(embeddings, np.float32)
    for i in range(BATCH):
        for j in range(LENGTH):
            if vector_index[i, j] >= 0:
                out[i, j] = vectors[i, vector_index[i, j]]
    return out


def test_one_set_a_prompt(inputs):
    np.testing.assert_array_equal(splice(*map(jnp.asarray, inputs)), _loop(*inputs))


def test_one_set_for_all(inputs):
    embeddings, vectors, index = inputs
    shared = vectors[0]
    expected = _loop(embeddings, np.stack([shared] * BATCH), index)
    np.testing.assert_array_equal(splice(jnp.asarray(embeddings), jnp.asarray(shared), jnp.asarray(index)), expected)


def test_vectors_keep_their_precision_beside_half_embeddings(inputs):
    embeddings, vectors, index = inputs
    half = jnp.asarray(embeddings, jnp.bfloat16)
    out = splice(half, jnp.asarray(vectors), jnp.asarray(index))
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, _loop(np.asarray(half, np.float32), vectors, index))


@pytest.mark.parametrize("shared", [True, False])
def test_gradient_by_finite_differences(inputs, shared):
    embeddings, vectors, index = inputs
    vectors = vectors[0] if shared else vectors
    weights = np.random.default_rng(1).normal(size=embeddings.shape).astype(np.float32)

    def loss(vectors):
        return jnp.sum(weights * jnp.sin(splice(jnp.asarray(embeddings), jnp.asarray(vectors), jnp.asarray(index))))

    jax.test_util.check_grads(loss, (jnp.asarray(vectors),), order=1, modes=["rev"], rtol=1e-2)
    gradient = np.asarray(jax.grad(loss)(jnp.asarray(vectors)))
    used = np.unique(index[index >= 0]) if shared else None
    assert np.abs(gradient).max() > 0
    if shared:
        assert set(np.flatnonzero(np.abs(gradient).max(axis=1))) == set(used)
    else:
        for i in range(BATCH):
            assert set(np.flatnonzero(np.abs(gradient[i]).max(axis=1))) == set(index[i][index[i] >= 0])
