"""Measurements survive the way to a file and back, cut where a resumed run goes on."""

import numpy as np

from ti_jax.inversion.history import History
from ti_jax.inversion.step import ChunkLog


def _log(losses, before, after):
    """A chunk of one slot; the loss on the fixed set is taken before its first step and after its last."""
    column = np.asarray([*losses, np.nan], np.float32)[:, None]
    fixed_loss = np.full_like(column, np.nan)
    fixed_loss[0], fixed_loss[len(losses)] = before, after
    return ChunkLog(column, column * 2, np.where(np.isnan(column), np.nan, 0.5), fixed_loss)


def _history():
    history = History()
    history.append(_log([3.0, 2.0, np.nan], 0.75, np.nan), slot=0)
    history.append(_log([1.0], 0.5, 0.25), slot=0)
    return history


def test_only_steps_that_were_taken_count():
    history = _history()
    assert history.loss == [3.0, 2.0, 1.0]
    assert history.norm == [6.0, 4.0, 2.0]
    assert history.fixed_loss == {0: 0.75, 2: 0.5, 3: 0.25}


def test_file_round_trip_and_cut():
    history = _history()
    assert History.from_jsonl(history.to_jsonl(), steps=3) == history
    cut = History.from_jsonl(history.to_jsonl(), steps=2)
    assert cut.loss == [3.0, 2.0]
    assert cut.fixed_loss == {0: 0.75, 2: 0.5}
