"""Concepts in one batch learn what they learn alone, and one dispatch runs a chunk."""

import jax
import numpy as np
import pytest

from ti_jax.config import ConceptSpec, InversionConfig, InversionDefaults, with_model_defaults
from ti_jax.errors import UserError
from ti_jax.inversion.bounds import Bounds
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.prepare import prepare

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


def _run(pipeline, concepts, slots=None, places=None, mesh=None):
    """Concepts in slots (the first ones, or `places`), and what a chunk did."""
    sizes = [Bounds.of(concept) for concept in concepts]
    bounds = Bounds(*(max(getattr(size, name) for size in sizes) for name in ("pictures", "prompts", "vectors")))
    engine = Engine(pipeline, CONFIG, slots or len(concepts), bounds, mesh)
    for slot, concept in zip(places or range(len(concepts)), concepts, strict=True):
        engine.put(slot, concept)
    return engine, engine.advance(STEPS)


def _vectors(engine, concept, slot=0):
    return engine.read(slot, len(concept.vectors["text_encoder"])).vectors["text_encoder"]


@pytest.fixture(scope="module")
def alone(pipeline, concepts):
    """Each concept in an engine of its own: its vectors and its log."""
    runs = [_run(pipeline, [concept]) for concept in concepts]
    return [(_vectors(engine, concept), report.log) for (engine, report), concept in zip(runs, concepts, strict=True)]


@pytest.mark.parametrize(("slots", "places"), [(4, (3, 1))])
def test_company_changes_nothing(pipeline, concepts, alone, slots, places):
    engine, report = _run(pipeline, concepts, slots, places)
    for slot, concept, (vectors, log) in zip(places, concepts, alone, strict=True):
        assert np.abs(vectors - concept.vectors["text_encoder"]).max() > 1e-3
        np.testing.assert_allclose(_vectors(engine, concept, slot), vectors, rtol=0, atol=1e-5 * np.abs(vectors).max())
        np.testing.assert_array_equal(engine.vectors()["text_encoder"][slot, len(vectors) :], 0.0)
        for rows, expected in zip(report.log, log, strict=True):
            np.testing.assert_allclose(rows[:, slot], expected[:, 0], rtol=1e-5)


def test_the_fixed_set_is_taken_at_a_slots_own_steps(pipeline, concepts, alone):
    """Before the first step and after the last; of the same vectors it has the same bits in any company."""
    _, report = _run(pipeline, concepts, 4, (3, 1))
    for slot, (_, log) in zip((3, 1), alone, strict=True):
        assert report.log.fixed_loss[0, slot] == log.fixed_loss[0, 0]
        assert np.flatnonzero(~np.isnan(log.fixed_loss[:, 0])).tolist() == [0, STEPS]
    assert np.isnan(report.log.fixed_loss[:, [0, 2]]).all()


def test_a_slot_is_filled_again(pipeline, concepts, alone):
    """A concept that comes when its neighbour is half way, into a slot that held another, learns what it learns alone;
    nothing is compiled for it."""
    fox, hare = concepts
    engine, _ = _run(pipeline, [fox, hare], slots=4)
    compiled = engine._run_chunk._cache_size()  # jax has no public count of compiled programs
    engine.clear(1)
    engine.put(0, hare)
    engine.advance(2)
    engine.put(1, fox)
    engine.advance(STEPS - 2)
    engine.advance(2)
    assert engine._run_chunk._cache_size() == compiled
    for slot, concept, (vectors, _) in ((0, hare, alone[1]), (1, fox, alone[0])):
        np.testing.assert_allclose(_vectors(engine, concept, slot), vectors, rtol=0, atol=1e-5 * np.abs(vectors).max())


def test_chunks_may_be_cut_anywhere(pipeline, concepts, alone):
    engine = Engine(pipeline, CONFIG, 1, Bounds.of(concepts[0]))
    engine.put(0, concepts[0])
    for steps in (1, 0, 3, 2):
        engine.advance(steps)
    np.testing.assert_array_equal(_vectors(engine, concepts[0]), alone[0][0])


def test_what_is_read_can_be_put_elsewhere(pipeline, concepts, alone):
    engine, _ = _run(pipeline, concepts, slots=4)
    half = Engine(pipeline, CONFIG, 4, engine.bounds)
    half.put(0, concepts[1])
    half.advance(3)
    engine.put(1, concepts[1], half.read(0, len(concepts[1].vectors["text_encoder"])))
    engine.advance(3)
    vectors = alone[1][0]
    np.testing.assert_allclose(_vectors(engine, concepts[1], 1), vectors, rtol=0, atol=1e-5 * np.abs(vectors).max())


def test_a_finished_slot_rests(pipeline, concepts):
    engine, _ = _run(pipeline, concepts[:1])
    before = engine.snapshot()
    report = engine.advance(3)
    assert np.isnan(report.log.loss).all()
    assert np.isnan(report.log.fixed_loss).all()
    jax.tree.map(np.testing.assert_array_equal, engine.snapshot(), before)


def test_a_concept_too_large_for_a_slot(pipeline, concepts):
    engine = Engine(pipeline, CONFIG, 1, Bounds.of(concepts[0]))
    with pytest.raises(UserError, match=r"hare has 4 pictures, and a slot has room for 2: give --bounds\.pictures 4"):
        engine.put(0, concepts[1])
