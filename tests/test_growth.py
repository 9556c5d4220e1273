"""How the cost of learning grows: the settings, and what is read from the file in docs."""

import importlib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    return importlib.import_module


def test_settings_differ_from_the_first_along_one_axis(script):
    growth = script("growth")
    first, *others = growth.settings(growth.STEP_AXES)
    assert list(first.values()) == [values[0] for values in growth.STEP_AXES.values()]
    for setting in others:
        assert sum(setting[name] != first[name] for name in first) == 1
    assert len(others) == sum(len(values) - 1 for values in growth.STEP_AXES.values())


def test_an_axis_is_found_among_the_rows(script):
    growth, plots = script("growth"), script("growth_plots")
    rows = [*growth.settings(growth.STEP_AXES), *growth.settings(growth.RUN_AXES)]
    for axes in (growth.STEP_AXES, growth.RUN_AXES):
        for name, values in axes.items():
            assert [row[name] for row in plots.along(rows, plots.MEASURED, name)] == sorted(values)


def test_a_straight_line(script):
    assert script("growth_plots").straight([1, 2, 4], [5.0, 7.0, 11.0]) == pytest.approx((3, 2, 0))
    assert script("growth_plots").straight([0, 1, 2], [1.0, 1.0, 4.0])[2] == pytest.approx(1)


def test_the_file_in_docs_is_drawn(script, monkeypatch, tmp_path, capsys):
    command = ["growth_plots.py", "--file", str(ROOT / "docs" / "growth.json"), "--images", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    script("growth_plots").main()
    assert "measured on" in capsys.readouterr().out
    for name in ("growth-measured.png", "growth-compiled.png"):
        with Image.open(tmp_path / name) as drawn, Image.open(ROOT / "docs" / "images" / name) as kept:
            assert drawn.size == kept.size
