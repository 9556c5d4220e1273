"""`ti-jax convert`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from ti_jax.cli.common import Common, in_output, load_concepts
from ti_jax.cli.usage import diffusers_calls


@dataclass(frozen=True)
class Convert:
    """Write an embedding file as another program reads it."""

    source: tyro.conf.Positional[str]
    """An embedding file of any program, or a run folder."""
    target: tyro.conf.Positional[str]
    """The new file: .safetensors, or .pt or .bin by torch."""
    to: Literal["diffusers", "a1111", "kohya", "comfyui", "sdxl", "invoke", "official"] | None = None
    """The program that will read it. Unset: a1111 for .pt, diffusers for others."""
    token: str | None = None
    """Call the concept by this word instead of the file's own; of a file with several, take the one of this word."""
    seed: int = 0
    """Every verb takes one; nothing is drawn here."""
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)

    def run(self) -> None:
        """Converts, and says how to use the file."""
        from ti_jax.concepts.formats import default_format, write

        concepts = load_concepts(self.source, self.token)
        target = in_output(self.common, self.target)
        write(concepts, target, to=self.to)
        if self.common.json:
            tokens = [concept.placeholder for concept in concepts]
            print(json.dumps({"file": target, "format": self.to or default_format(target), "tokens": tokens}))
            return
        for concept in concepts:
            sizes = ", ".join(f"{name} {list(values.shape)}" for name, values in concept.vectors.items())
            print(f"{target}: {concept.placeholder} ({sizes})")
            if len(concept.vectors) > 1:
                print("in diffusers:", *diffusers_calls(concept, target), sep="\n  ")
