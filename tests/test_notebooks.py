"""The notebooks run from top to bottom, and are kept without outputs."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_kept_without_outputs(notebook):
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(notebook))


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook in an empty folder, few steps each; gives what it printed and the number of its pictures."""

    def execute(name, environment=None):
        settings = {"STEPS": "4", "SAMPLING_STEPS": "2", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        for variable, value in {**settings, **(environment or {})}.items():
            monkeypatch.setenv(variable, value)
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        resources = {"metadata": {"path": tmp_path}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
        outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
        text = "".join(output.text for output in outputs if output.output_type == "stream")
        return text, sum("image/png" in output.get("data", {}) for output in outputs)

    return execute


def test_quickstart(execute, tmp_path):
    text, shown = execute("quickstart")
    assert shown >= 6  # the user's pictures, the loss, and two prompts with each word
    assert "cpu" in text
    assert "step 4 of 4" in text
    assert (tmp_path / "fox.safetensors").exists()


def test_many_concepts(execute, tmp_path):
    """On eight simulated devices, with three concepts that share them."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    text, shown = execute("many_concepts", {"XLA_FLAGS": flags})
    assert shown == 2
    assert "runs on 8 x cpu" in text
    lines = [json.loads(line) for line in (tmp_path / "runs/many/results.jsonl").read_text().splitlines()]
    assert sorted((line["name"], line["status"], line["steps"]) for line in lines) == [
        (name, "finished", 4) for name in ("blob", "fox", "tabby")
    ]
    assert all(f"{line['name']} finished {line['file']}" in text for line in lines)
