"""What the documents say can be done: commands are understood, scripts have the options, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from ti_jax import cli

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("scripts/*/README.md"),
    ROOT / "ti_jax/bundled/tiny/MODEL_CARD.md",
]


def commands(program):
    """What follows on `program` in the documents' code, in words; of scripts also what sentences have in backticks."""
    found = {}
    for document in sorted(DOCUMENTS):
        text = document.read_text()
        blocks = re.findall(r"^ *```(?:bash)?\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
        lines = "\n".join(blocks).replace("\\\n", "").splitlines()
        lines += re.findall(r"(?<!`)`([^`]*python scripts/[^`]*)`(?!`)", text)
        for part in (part for line in lines for part in line.split("&&")):
            if program in part.split()[:2]:  # the first may set a variable
                words = shlex.split(part, comments=True)
                found[f"{document.relative_to(ROOT)}: {' '.join(words)}"] = words[words.index(program) + 1 :]
    return [pytest.param(words, id=name) for name, words in found.items()]


@pytest.mark.parametrize("words", commands("ti-jax"))
def test_commands_are_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)  # where configs/ is
    verb, *arguments = ["0" if word == "I" else word for word in words]  # a host's number
    cli._parse(verb, arguments)


@pytest.mark.parametrize("words", commands("python"))
def test_scripts_have_the_options(words):
    code = (ROOT / words[0]).read_text()
    for option in (word for word in words if word.startswith("--")):
        assert f'"{option}"' in code or f"{option[2:].replace('-', '_')}: " in code  # of argparse, or a field for tyro


@pytest.mark.parametrize("document", sorted(DOCUMENTS), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        assert link.startswith("http") or (document.parent / link).exists(), link
