"""`ti-jax merge`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from ti_jax.cli.common import Common, in_output, load_concepts
from ti_jax.errors import UserError


@dataclass(frozen=True)
class Merge:
    """Put several concepts into one file, in the format of the paper's code."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """Embedding files or run folders, and last the new file, which ends in .pt."""
    on_clash: Literal["refuse", "rename"] = "refuse"
    """What to do if two concepts have one word: stop, or number the second, such as <fox-2>."""
    seed: int = 0
    """Every verb takes one; nothing is drawn here."""
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)

    def run(self) -> None:
        """Merges, and names the words in the new file."""
        from ti_jax.concepts.formats import write
        from ti_jax.concepts.merging import merge
        from ti_jax.files import locate

        *sources, target = self.files or ("",)
        if len(sources) < 2:
            raise UserError("name two embedding files or more, and the new file after them")
        target = in_output(self.common, target)
        if locate(target).exists():
            raise UserError(f"{target} is there already: name a new file last, or remove it first")
        concepts = merge(
            [concept for source in sources for concept in load_concepts(source)],
            on_clash=self.on_clash,
        )
        write(concepts, target, to="official")
        words = [concept.placeholder for concept in concepts]
        print(json.dumps({"file": target, "tokens": words}) if self.common.json else f"{target}: {', '.join(words)}")
