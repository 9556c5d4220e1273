"""Hosts share a queue without a word, and Slurm's tell which they are."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ti_jax.errors import UserError
from ti_jax.parallel.hosts import ALONE, Host, find_host, join_slice, share


@given(st.lists(st.text(), unique=True, max_size=50), st.integers(1, 9))
def test_shares_are_even_disjoint_and_cover_all(names, count):
    shares = [share(names, Host(index, count)) for index in range(count)]
    assert sorted(name for own in shares for name in own) == sorted(names)
    sizes = [len(own) for own in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(own == [name for name in names if name in own] for own in shares)


def test_a_share_does_not_depend_on_the_order():
    names = [str(i) for i in range(20)]
    assert set(share(names, Host(1, 3))) == set(share(names[::-1], Host(1, 3)))


def test_what_one_of_two_hosts_left_spreads_over_four():
    names = [str(i) for i in range(400)]
    left = set(share(names, Host(1, 2)))
    sizes = [len(left & set(share(names, Host(index, 4)))) for index in range(4)]
    assert min(sizes) > 30  # of 50 on average


def test_find_host():
    assert find_host(None, None, {}) == ALONE
    step = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "8"}
    assert find_host(None, None, step) == Host(2, 4)
    assert find_host(0, 2, step) == Host(0, 2)
    for index, count in ((0, None), (None, 2), (2, 2), (-1, 2)):
        with pytest.raises(UserError, match="--host"):
            find_host(index, count, {})


def test_a_process_that_srun_did_not_start_is_alone():
    """In the shell of `salloc -n 4`, and in a script of `sbatch -n 4`, which is process 0 of its own step."""
    assert find_host(None, None, {"SLURM_NTASKS": "4"}) == ALONE
    assert find_host(None, None, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == ALONE


def test_a_worker_that_is_done_waits_for_slower_ones(monkeypatch):
    """JAX's default ends all workers of a slice five minutes after the first is done."""
    asked, settings = {}, {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: asked.update(options))
    assert join_slice(process_id=0) == ALONE
    assert asked["process_id"] == 0
    assert asked["shutdown_timeout_seconds"] > 24 * 60 * 60
    assert settings == {"jax_enable_preemption_service": False}  # SIGTERM is the command's own
