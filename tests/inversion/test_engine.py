"""Concepts in one batch learn what they learn alone, and one dispatch runs a chunk."""

import jax
import numpy as np
import pytest

from ti_jax.config import ConceptSpec, InversionConfig, InversionDefaults, with_model_defaults
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.prepare import prepare
from ti_jax.inversion.step import run_chunk

STEPS = 6
CONFIG = with_model_defaults(
    InversionConfig(steps=STEPS, batch_size=2, evaluate_every=STEPS, fixed_set_size=2, min_snr_gamma=5.0),
    InversionDefaults(),
)


@pytest.fixture(scope="module")
def pipeline(sd2_twin):
    return sd2_twin[1]


@pytest.fixture(scope="module")
def concepts(pipeline):
    """Of different numbers of pictures and vectors."""
    rng = np.random.default_rng(0)
    made = []
    for name, pictures, initializer in (("fox", 2, "cat"), ("hare", 4, "a small cat on a")):
        arrays = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(pictures)]
        made.append(prepare(pipeline, ConceptSpec(name, f"<{name}>", initializer, arrays), CONFIG))
    return made


def _run(pipeline, concepts):
    engine = Engine(pipeline, CONFIG, concepts)
    report = engine.advance(STEPS, evaluate=True)
    return engine, report


def test_company_changes_nothing(pipeline, concepts):
    together, report = _run(pipeline, concepts)
    for slot, concept in enumerate(concepts):
        alone, expected = _run(pipeline, [concept])
        n = len(concept.vectors["text_encoder"])
        vectors = np.asarray(alone.state.vectors["text_encoder"][0])
        assert np.abs(vectors - concept.vectors["text_encoder"]).max() > 1e-3
        np.testing.assert_allclose(
            together.state.vectors["text_encoder"][slot, :n], vectors, rtol=0, atol=1e-5 * np.abs(vectors).max()
        )
        np.testing.assert_array_equal(together.state.vectors["text_encoder"][slot, n:], 0.0)
        np.testing.assert_allclose(report.loss[:, slot], expected.loss[:, 0], rtol=1e-5)
        np.testing.assert_allclose(report.norm[:, slot], expected.norm[:, 0], rtol=1e-5)
        np.testing.assert_allclose(report.fixed_loss[slot], expected.fixed_loss[0], rtol=1e-5)


def test_chunks_may_be_cut_anywhere(pipeline, concepts):
    whole, _ = _run(pipeline, concepts[:1])
    parts = Engine(pipeline, CONFIG, concepts[:1])
    for steps in (1, 3, 2):
        parts.advance(steps, evaluate=False)
    jax.tree.map(np.testing.assert_array_equal, parts.state.vectors, whole.state.vectors)


def test_a_finished_slot_rests(pipeline, concepts):
    engine, _ = _run(pipeline, concepts[:1])
    before = jax.tree.map(np.asarray, engine.state)
    report = engine.advance(3, evaluate=False)
    assert np.isnan(report.loss).all()
    jax.tree.map(np.testing.assert_array_equal, engine.state, before)


def test_a_chunk_never_calls_the_host(pipeline, concepts):
    engine = Engine(pipeline, CONFIG, concepts[:1])
    arguments = (pipeline.networks, pipeline.schedule, engine.vocabulary_norm, engine.state, engine.inputs)
    program = str(jax.make_jaxpr(lambda *a: run_chunk(*a, config=CONFIG))(*arguments, np.int32(1), np.bool_(True)))
    assert "callback" not in program
