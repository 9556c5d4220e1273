"""A run that will come to nothing is told so, and a good one is left in peace."""

import numpy as np
import pytest

from ti_jax.inversion.diagnosis import PATIENCE, diagnose
from ti_jax.inversion.history import History

START = {"text_encoder": np.zeros((1, 4), np.float32)}
VOCABULARY = {"text_encoder": 2.0}


def _run(*, steps=PATIENCE, moved=1.0, norm=1.0, first=0.5, last=0.4):
    history = History(
        loss=[0.5] * steps,
        norm=[norm] * steps,
        learning_rate=[0.1] * steps,
        fixed_loss={0: first, steps: last},
    )
    vectors = {"text_encoder": np.full((1, 4), moved / 2, np.float32)}  # at a distance of `moved`
    return diagnose(history, vectors, START, VOCABULARY)


def test_a_good_run_is_left_in_peace():
    assert _run() == {}


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        ({"last": 0.5}, "loss"),
        ({"last": float("inf")}, "loss"),
        ({"moved": 0.0199}, "movement"),
        ({"norm": 5.1}, "norm"),
        ({"norm": 5.1, "steps": 3}, "norm"),
    ],
)
def test_what_is_wrong_is_named(run, kind):
    assert list(_run(**run)) == [kind]


def test_nothing_is_said_of_learning_before_its_time():
    assert _run(steps=PATIENCE - 1, moved=0.0, last=0.6) == {}
