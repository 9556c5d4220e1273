"""Similarities against their definitions, pair by pair."""

import itertools

import numpy as np
import pytest

from ti_jax.evaluation.scores import image_similarity, mean_text_similarity, similarity_within, text_similarity


def unit(*shape):
    vectors = np.random.default_rng(sum(shape)).normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_image_similarity_is_over_all_pairs():
    a, b = unit(3, 5), unit(4, 5)
    assert image_similarity(a, b) == pytest.approx(np.mean([x @ y for x, y in itertools.product(a, b)]))


def test_similarity_within_leaves_out_a_picture_with_itself():
    a = unit(4, 5)
    assert similarity_within(a) == pytest.approx(np.mean([x @ y for x, y in itertools.combinations(a, 2)]))
    assert similarity_within(a[:1]) is None


def test_text_similarities():
    a, text = unit(3, 5), unit(5)
    average = a.mean(axis=0)
    assert mean_text_similarity(a, text) == pytest.approx(np.mean([x @ text for x in a]))
    assert text_similarity(a, text) * np.linalg.norm(average) == pytest.approx(mean_text_similarity(a, text))
    assert text_similarity(a, average / np.linalg.norm(average)) == pytest.approx(1)
