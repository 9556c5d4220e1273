"""The package as a whole: quick to import, complete, and packed with everything that it needs."""

import ast
import importlib.metadata
import inspect
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ti_jax

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "tensorflow", "diffusers", "matplotlib"}


def cost_of(code: str) -> tuple[float, set[str]]:
    """CPU seconds of a fresh interpreter that runs `code`, and the top-level packages it has imported."""
    report = "import json, sys, time; print(json.dumps([time.process_time(), list(sys.modules)]))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, modules = json.loads(output.splitlines()[-1])
    return seconds, {module.partition(".")[0] for module in modules}


def test_import_is_instant():
    seconds, packages = cost_of("import ti_jax")
    assert seconds < 1
    assert not packages & {*HEAVY, "jax", "flax", "transformers"}


@pytest.mark.parametrize("arguments", [["--help"], ["invert", "--help"]], ids=" ".join)
def test_help_is_instant(arguments):
    seconds, packages = cost_of(
        f"import contextlib, ti_jax.cli\nwith contextlib.suppress(SystemExit): ti_jax.cli.main({arguments})"
    )
    assert seconds < 1
    assert not packages & {*HEAVY, "jax", "flax", "transformers"}


def test_the_whole_api_needs_no_reference_library():
    _, packages = cost_of("from ti_jax import *")
    assert not packages & HEAVY


@pytest.mark.parametrize("name", ti_jax.__all__)
def test_public_name_resolves_and_is_documented(name):
    assert name in dir(ti_jax)
    assert inspect.getdoc(getattr(ti_jax, name))


def test_type_checkers_see_the_same_api():
    block = next(node for node in ast.parse(inspect.getsource(ti_jax)).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == ti_jax._MODULES
    assert list(ti_jax._MODULES) == ti_jax.__all__ == sorted(ti_jax.__all__)


def test_unknown_name():
    with pytest.raises(AttributeError, match="'ti_jax' has no attribute 'inverted'"):
        ti_jax.inverted  # noqa: B018  the access is what is tested


def test_version():
    assert importlib.metadata.version("ti-jax") == ti_jax.__version__


@pytest.mark.slow  # builds in an environment of its own, which the build backend is downloaded into
def test_wheel_holds_all_that_ships(tmp_path):
    source = tmp_path / "source"  # a copy, since the build leaves its own files behind
    shutil.copytree(ROOT / "ti_jax", source / "ti_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ships = {str(path.relative_to(source)) for path in (source / "ti_jax").rglob("*") if path.is_file()}

    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    subprocess.run(command, check=True)

    (wheel,) = tmp_path.glob("*.whl")
    assert ships == {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("ti_jax/")}
