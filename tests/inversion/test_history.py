"""Measurements survive the way to a file and back, cut where a resumed run goes on."""

import numpy as np

from ti_jax.inversion.engine import ChunkReport
from ti_jax.inversion.history import History


def _report(losses, fixed):
    column = np.asarray(losses, np.float32)[:, None]
    return ChunkReport(column, column * 2, np.where(np.isnan(column), np.nan, 0.5), np.asarray([fixed], np.float32))


def test_only_steps_that_were_taken_count():
    history = History()
    history.append(_report([], 0.75), slot=0)
    history.append(_report([3.0, 2.0, np.nan], np.nan), slot=0)
    history.append(_report([1.0], 0.25), slot=0)
    assert history.loss == [3.0, 2.0, 1.0]
    assert history.norm == [6.0, 4.0, 2.0]
    assert history.fixed_loss == {0: 0.75, 3: 0.25}


def test_file_round_trip_and_cut():
    history = History()
    history.append(_report([], 0.75), slot=0)
    history.append(_report([3.0, 2.0], 0.5), slot=0)
    history.append(_report([1.0], 0.25), slot=0)
    assert History.from_jsonl(history.to_jsonl(), steps=3) == history
    cut = History.from_jsonl(history.to_jsonl(), steps=2)
    assert cut.loss == [3.0, 2.0]
    assert cut.fixed_loss == {0: 0.75, 2: 0.5}
