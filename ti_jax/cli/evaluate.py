"""`ti-jax evaluate`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from ti_jax.cli.common import Common, Repeated, SamplerName, in_output, load_concepts
from ti_jax.errors import UserError

if TYPE_CHECKING:
    from ti_jax.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Evaluate:
    """Score a learned word: does it show its pictures, and are prompts with it followed?"""

    concept: tyro.conf.Positional[str]
    """An embedding file or a run folder."""
    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Pictures of the concept: a folder, files, or bundled:NAME."""
    token: str | None = None
    """Which word, if the file has several."""
    clip: str = "tiny"
    """Who judges: `tiny` (bundled), a folder in transformers' format, or an id on the hub. The paper has
    openai/clip-vit-base-patch32."""
    prompt: Repeated = ()
    """A prompt to follow, `{}` for the word; repeat for several. Unset: the model's own list."""
    num_images: int = 64
    """Pictures of each prompt."""
    steps: int = 50
    """Sampling steps."""
    guidance: float = 5.0
    """Scale of classifier-free guidance."""
    sampler: SamplerName = "ddim"
    """dpm++ is DPM-Solver++(2M), euler_a Euler ancestral."""
    seed: int = 0
    """Same seed, same pictures."""
    batch_size: int | None = None
    """Pictures drawn at a time."""
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)

    def run(self) -> None:
        """Draws, scores and prints."""
        import ti_jax
        from ti_jax.files import write_text

        if not self.pictures:
            raise UserError("name the pictures of the concept: a folder, files, or bundled:fox")
        concepts = load_concepts(self.concept, self.token)
        if len(concepts) != 1:
            words = ", ".join(concept.placeholder for concept in concepts)
            raise UserError(f"{self.concept} holds {words}: choose one by --token")
        scores = ti_jax.evaluate(
            self.common.load_pipeline(),
            concepts[0],
            self.pictures,
            clip=self.clip,
            prompts=self.prompt or None,
            num_images=self.num_images,
            seed=self.seed,
            steps=self.steps,
            guidance=self.guidance,
            sampler=self.sampler,
            batch_size=self.batch_size,
        )
        report = {"file": self.concept, "model": self.common.model, **dataclasses.asdict(scores)}
        print(json.dumps(report) if self.common.json else "\n".join(_lines(scores)))
        if self.common.output:
            write_text(in_output(self.common, "evaluation.json"), json.dumps(report, indent=2) + "\n")


def _lines(scores: Evaluation) -> list[str]:
    """For people."""
    within = scores.pictures_similarity
    compared = "" if within is None else f"  (its pictures among themselves: {within:.3f})"
    return [
        f"{scores.concept}, judged by CLIP {scores.clip}",
        f"image similarity  {scores.image_similarity:.3f}{compared}",
        f"text similarity   {scores.text_similarity:.3f}",
        *(f"  {score.text_similarity:.3f}  {score.text}" for score in scores.prompts),
    ]
