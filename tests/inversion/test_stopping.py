"""DVAR's rule against its definition on the whole history of losses, and a run that it ends."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ti_jax
from ti_jax.config import InversionConfig, StoppingConfig
from ti_jax.inversion.stopping import add_loss, empty_record, has_settled

ADD, SETTLED = jax.jit(add_loss), jax.jit(has_settled, static_argnums=1)


def settled_by_definition(losses, window, threshold):
    """Arrays in float64, as the reference keeps all losses of a run."""
    if len(losses) < window:
        return False
    return bool(np.var(losses[-window:]) < threshold * np.var(losses))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), window=st.integers(2, 9), scale=st.sampled_from([1e-3, 0.1, 30.0]))
def test_slots_that_are_evaluated_at_their_own_steps_are_as_if_alone(seed, window, scale):
    random = np.random.default_rng(seed)
    slots, steps, threshold = 3, 40, 0.15
    record = empty_record(StoppingConfig(rule="dvar", window=window), 1, slots)
    history = [[] for _ in range(slots)]
    for step in range(steps):
        fall = scale * np.exp(-step / random.uniform(2, 20, slots))
        losses = np.float32(0.2 + fall + 0.05 * scale * random.normal(size=slots))
        due = random.random(slots) < 0.7
        record = ADD(record, losses, due)
        for slot in np.flatnonzero(due):
            history[slot].append(float(losses[slot]))
        for slot, here in enumerate(np.asarray(SETTLED(record, threshold))):
            ratio = np.var(history[slot][-window:]) / max(np.var(history[slot]), 1e-30) if history[slot] else 1.0
            if abs(ratio - threshold) > 1e-3:  # in float32 the two sides of a tie may differ
                assert here == settled_by_definition(history[slot], window, threshold)


def test_the_variance_of_long_histories_stays_exact():
    """Losses that hardly vary around a large mean are where sums of squares cancel."""
    losses = np.float32(5.0 + 1e-3 * np.random.default_rng(0).normal(size=6000))
    record = empty_record(StoppingConfig(rule="dvar", window=300), 10, 1)
    assert record.latest.shape == (1, 30)
    for loss in losses:
        record = ADD(record, loss[None], np.array([True]))
    variance = float(record.squares[0]) / len(losses)
    assert variance == pytest.approx(np.var(losses.astype(np.float64)), rel=2e-3)


def test_a_rule_that_is_off_remembers_one_loss():
    assert empty_record(StoppingConfig(), 1, 4).latest.shape == (4, 1)


def test_nothing_is_settled_before_a_window_of_losses():
    record = empty_record(StoppingConfig(rule="dvar", window=30), 10, 1)
    seen = []
    for loss in (0.9, 0.5, 0.5, 0.5):
        record = ADD(record, jnp.array([loss], jnp.float32), jnp.array([True]))
        seen.append(bool(SETTLED(record, 0.15)[0]))
    assert seen == [False, False, False, True]


def test_a_run_ends_at_its_first_full_window_and_is_left_at_that(sd2_twin, tmp_path):
    """By a threshold that any losses are below: those of a window of six steps are taken after 0, 2 and 4.

    Checkpoints after every third step make the fourth the first of two in a dispatch: the second must not be taken.
    """
    config = InversionConfig(
        steps=12,
        batch_size=1,
        evaluate_every=2,
        fixed_set_size=1,
        checkpoint_every=3,
        preview_prompts=(),
        stopping=StoppingConfig("dvar", window=6, threshold=1e9),
    )
    pictures = [np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)]

    def invert(**options):
        return ti_jax.invert(
            sd2_twin[1], pictures, placeholder="<fox>", initializer="cat", config=config, output=tmp_path, **options
        )

    def files():
        """When the files were written that a run leaves at its end."""
        return {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.suffix in (".png", ".safetensors")}

    result = invert()
    assert result.settled
    assert list(result.history.fixed_loss) == [0, 2, 4]
    assert (result.history.steps, result.concept.metadata["steps"]) == (4, "4")
    summary = json.loads((tmp_path / "result.json").read_text())
    assert (summary["status"], summary["steps"], summary["stopped_early"]) == ("finished", 4, True)

    before = files()
    again = invert(resume=True)
    assert again.settled
    assert again.history == result.history
    np.testing.assert_array_equal(again.concept.vectors["text_encoder"], result.concept.vectors["text_encoder"])
    assert json.loads((tmp_path / "result.json").read_text()) == summary
    assert files() == before
