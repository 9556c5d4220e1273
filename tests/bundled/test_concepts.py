"""The example concepts: small, square, on white, and attributed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ti_jax

FOLDER = Path(ti_jax.__file__).parent / "bundled" / "concepts"
CONCEPTS = ["blob", "fox", "tabby"]


def test_every_concept_is_attributed():
    notice = (FOLDER.parent / "NOTICE.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in FOLDER.iterdir()) == CONCEPTS
    assert all(f"| `{name}` |" in notice for name in CONCEPTS)


@pytest.mark.parametrize("name", CONCEPTS)
def test_pictures(name):
    files = sorted((FOLDER / name).iterdir())
    assert len(files) == 5
    assert sum(file.stat().st_size for file in files) < 100_000
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        assert pixels.shape == (256, 256, 3)
        border = np.concatenate([pixels[:8].reshape(-1, 3), pixels[-8:].reshape(-1, 3)])
        assert (border == 255).all(), f"{file.name} is not on white"
        drawn = np.argwhere((pixels < 250).any(-1))
        extent = drawn.max(0) - drawn.min(0) + 1
        assert 220 <= extent.max() <= 226, f"{file.name} does not fill its square as the others do"
