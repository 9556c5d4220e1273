"""The table of accelerators, and how names are found in it."""

import re

import pytest

from ti_jax.errors import UserError
from ti_jax.planning.topologies import CHIPS, TOPOLOGIES, topology


@pytest.mark.parametrize(
    ("name", "devices"),
    [("v5e-1", 1), ("v5e-8", 8), ("v6e-8", 8), ("v4-8", 4), ("v5p-8", 4), ("h100", 1), ("A100x8", 8), ("l4x4", 4)],
)
def test_devices(name, devices):
    found = topology(name)
    assert found.size == devices
    assert found.chip is CHIPS[name.lower().split("-")[0].split("x")[0]]


def test_the_help_names_all(run):
    _, text, _ = run("plan", "--help")
    assert {name for name in TOPOLOGIES if "x" not in name} <= set(re.findall(r"[\w-]+", text))


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(UserError, match=r"'v5e-9': did you mean v5e-[148]\?"):
        topology("v5e-9")


def test_what_programs_can_have_is_the_part_that_jax_takes(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    a100, tpu = topology("a100").chip, topology("v5e-1").chip
    assert a100.program_memory == a100.memory * 3 // 4
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
    assert (a100.program_memory, tpu.program_memory) == (a100.memory // 2, tpu.memory)


def test_peaks_are_of_one_order():
    """A slip in a unit would be one of a thousand."""
    for found in TOPOLOGIES.values():
        assert 100 <= found.chip.flops / found.chip.bandwidth <= 600
        assert 15e9 < found.chip.memory < 160e9
