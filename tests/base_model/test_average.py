"""The mean of models."""

import average
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file


@pytest.fixture
def models(tmp_path):
    """Two folders whose tensors are all 1 and all 3."""
    for name, value in (("a", 1), ("b", 3)):
        for file in average.FILES:
            (tmp_path / name / file).parent.mkdir(parents=True)
            save_file(
                {"x": np.full(2, value, np.float16), "y": np.full((1, 2), -value, np.float32)}, tmp_path / name / file
            )
        (tmp_path / name / "model_index.json").write_text(name)
    return tmp_path / "a", tmp_path / "b"


def test_the_weighted_mean(models, tmp_path, monkeypatch):
    shares = [f"{folder}={share}" for folder, share in zip(models, (0.25, 0.75), strict=True)]
    monkeypatch.setattr("sys.argv", ["average.py", "--models", *shares, "--output", str(tmp_path / "mean")])
    average.main()
    assert (tmp_path / "mean/model_index.json").read_text() == "a"
    for file in average.FILES:
        tensors = load_file(tmp_path / "mean" / file)
        assert {name: (value.dtype, value.ravel().tolist()) for name, value in tensors.items()} == {
            "x": (np.float16, [2.5, 2.5]),
            "y": (np.float32, [-2.5, -2.5]),
        }


def test_shares_that_do_not_add_up(models, tmp_path):
    with pytest.raises(SystemExit, match=r"add up to 0\.9"):
        average.average([(models[0], 0.5), (models[1], 0.4)], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
