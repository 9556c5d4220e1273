"""`ti-jax inspect`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ti_jax.cli.common import Common, in_output, load_concepts
from ti_jax.errors import UserError

if TYPE_CHECKING:
    from ti_jax.concepts.concept import Concept
    from ti_jax.pipeline import Pipeline


@dataclass(frozen=True)
class Inspect:
    """Say what is in an embedding file, and what its vectors are close to."""

    file: tyro.conf.Positional[str]
    """An embedding file of any program, or a run folder. Vectors are compared with the words of --model."""
    words: int = 5
    """How many of the nearest words."""
    seed: int = 0
    """Every verb takes one; nothing is drawn here."""
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)

    def run(self) -> None:
        """Prints what is in the file."""
        from ti_jax.files import write_text

        if self.words < 0:
            raise UserError(f"words = {self.words}: it is 0 or more")
        concepts = load_concepts(self.file)
        pipeline = self.common.load_pipeline()
        described = [_describe(concept, pipeline, self.words) for concept in concepts]
        report = {"file": self.file, "model": self.common.model, "concepts": described}
        print(json.dumps(report) if self.common.json else "\n".join(_lines(report)))
        if self.common.output:
            write_text(in_output(self.common, "inspect.json"), json.dumps(report, indent=2) + "\n")


def _describe(concept: Concept, pipeline: Pipeline, count: int) -> dict[str, Any]:
    """What is known of a concept, in values of JSON; null where the model is another."""
    import numpy as np

    from ti_jax.concepts.nearest import nearest_words

    encoders: dict[str, Any] = {}
    for name, values in concept.vectors.items():
        vectors = np.asarray(values)
        known = pipeline.widths.get(name) == vectors.shape[1]
        table = pipeline.token_tables[name] if known else None
        encoders[name] = {
            "vectors": vectors.shape[0],
            "width": vectors.shape[1],
            "norms": np.linalg.norm(vectors, axis=1).tolist(),
            "vocabulary_norm": pipeline.vocabulary_norms[name] if known else None,
            "nearest": None if table is None else nearest_words(vectors, table, pipeline.tokenizers[name], count),
        }
    return {"token": concept.placeholder, "encoders": encoders, "metadata": concept.metadata}


def _lines(report: dict[str, Any]) -> list[str]:
    from ti_jax.concepts.formats.content import show

    lines: list[str] = []
    for concept in report["concepts"]:
        lines.append(concept["token"])
        for name, encoder in concept["encoders"].items():
            lines.append(f"  {name}: {encoder['vectors']} vectors of width {encoder['width']}")
            if encoder["nearest"] is None:
                lines.append(f"    of another model than {report['model']}: name its own by --model to compare words")
            for i, norm in enumerate(encoder["norms"]):
                lines.append(f"    {i}: norm {norm:.3f}{_compared(encoder, i)}")
        lines += [f"  {show(key)}: {show(value)}" for key, value in concept["metadata"].items()]
    return lines


def _compared(encoder: dict[str, Any], i: int) -> str:
    """A vector beside the vocabulary."""
    if encoder["nearest"] is None:
        return ""
    words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in encoder["nearest"][i])
    return f" ({encoder['norms'][i] / encoder['vocabulary_norm']:.1f} x vocabulary), near {words}"
