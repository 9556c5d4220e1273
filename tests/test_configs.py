"""The documents in configs/ are read by the command line, and mean what they meant.

After a wanted change: `TI_JAX_WRITE_GOLDEN=1 pytest tests/test_configs.py`, and look at the difference.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

# In a process of its own: tyro's marks for options that are still to come are none of the types that the tests check.
CODE = """
import json, sys
from ti_jax.cli import _parse
from ti_jax.config import as_dict
print(json.dumps(as_dict(_parse("invert", sys.argv[1:]).settings), indent=2))
"""


def resolved(path, *options):
    arguments = ["bundled:fox", "--token", "<fox>", "--init", "fox", "--config", str(path), *options]
    return subprocess.run([sys.executable, "-c", CODE, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolved_text(path):
    golden = Path(__file__).parent / "golden" / f"{path.stem}.json"
    text = resolved(path)
    if os.environ.get("TI_JAX_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_options_override(path):
    found = json.loads(resolved(path, "--steps", "7", "--optimizer.learning-rate", "0.25"))
    wanted = json.loads(resolved(path))
    wanted["steps"] = 7
    wanted["optimizer"]["learning_rate"] = 0.25
    assert found == wanted


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_says_what_it_needs(path):
    text = path.read_text()
    for heading in ("Command:", "Hardware:", "Time:", "Result:"):
        assert heading in text.split('"""')[1]
