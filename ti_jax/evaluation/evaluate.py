"""How well a learned word shows its concept, and how well prompts with it are followed: section 5.1 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ti_jax.concepts.concept import Concept
from ti_jax.data.pictures import load_pictures
from ti_jax.errors import UserError
from ti_jax.evaluation.clip import Clip, load_clip
from ti_jax.evaluation.scores import image_similarity, mean_text_similarity, similarity_within, text_similarity
from ti_jax.generation import generate
from ti_jax.pipeline import Pipeline


@dataclass(frozen=True)
class PromptScore:
    """How well the pictures of one prompt fit what it says beside the word."""

    prompt: str
    """As it was drawn."""
    text: str
    """Without the word."""
    text_similarity: float
    """Cosine of the text with the pictures' average, as the paper has it."""
    mean_text_similarity: float
    """Mean of the cosines with each picture, as the paper's code has it."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a concept; cosines between CLIP's vectors, which compare only under the same CLIP and settings."""

    concept: str
    """The word."""
    clip: str
    """Which CLIP judged."""
    image_similarity: float
    """Mean cosine of all pairs of a drawn picture and one of the concept's."""
    pictures_similarity: float | None
    """The same among the concept's own pictures: about what can be reached. None if there is only one."""
    text_similarity: float
    """Mean over `prompts`."""
    prompts: tuple[PromptScore, ...]
    settings: dict[str, Any]
    """Of the drawing."""


def evaluate(
    pipeline: Pipeline,
    concept: Concept,
    pictures: Any,
    *,
    clip: str | Path | Clip = "tiny",
    prompts: Sequence[str] | None = None,
    num_images: int = 64,
    seed: int = 0,
    steps: int = 50,
    guidance: float = 5.0,
    sampler: str = "ddim",
    batch_size: int | None = None,
) -> Evaluation:
    """Draws a learned word, and scores what comes (Gal et al. 2022, section 5.1).

    Args:
        pipeline: the frozen model.
        concept: the learned word.
        pictures: of the concept, as `invert` takes them; those it was learned from, or others.
        clip: `tiny` (bundled), a folder in transformers' format, an id on the hub such as the paper's
            `openai/clip-vit-base-patch32`, or one from `load_clip`.
        prompts: `{}` for the word, scored by their text; None for the model's own list. Its first one shows the word
            alone and is drawn for the image similarity.
        num_images: of each prompt; the paper draws 64.
        seed: in [0, 2**32).
        steps: of the sampler.
        guidance: scale of classifier-free guidance.
        sampler: `ddim`, `ddpm`, `dpm++`, `euler` or `euler_a`.
        batch_size: pictures drawn at a time; None for at most 8.

    Returns:
        the scores.

    Raises:
        UserError: if a prompt has no `{}`, or there is no such CLIP or picture.
    """
    plain, *others = pipeline.inversion_defaults.preview_prompts
    prompts = others if prompts is None else list(prompts)
    for prompt in prompts:
        if "{}" not in prompt:
            raise UserError(f"the prompt {prompt!r} has no {{}} for the word")
    if num_images < 1 or not prompts:
        raise UserError(f"num_images = {num_images} and {len(prompts)} prompts: give 1 or more of each")
    judge = clip if isinstance(clip, Clip) else load_clip(clip)
    given = [picture.pixels for picture in load_pictures(pictures, resolution=pipeline.resolution)]
    settings: dict[str, Any] = {"seed": seed, "steps": steps, "guidance": guidance, "sampler": sampler}
    drawn = generate(
        pipeline,
        [template.replace("{}", concept.placeholder) for template in (plain, *prompts)],
        concepts=[concept],
        num_images=num_images,
        batch_size=batch_size,
        **settings,
    )
    of_concept, *of_prompts = np.split(judge.image_vectors(list(drawn)), 1 + len(prompts))
    references = judge.image_vectors(given)
    scores = tuple(
        score_prompt(judge, template, concept.placeholder, vectors)
        for template, vectors in zip(prompts, of_prompts, strict=True)
    )
    return Evaluation(
        concept=concept.placeholder,
        clip=judge.source,
        image_similarity=image_similarity(of_concept, references),
        pictures_similarity=similarity_within(references),
        text_similarity=float(np.mean([score.text_similarity for score in scores])),
        prompts=scores,
        settings={**settings, "num_images": num_images, "prompt": plain},
    )


def score_prompt(judge: Clip, template: str, word: str, vectors: np.ndarray) -> PromptScore:
    """The score of one prompt.

    Args:
        judge: whose space it is.
        template: `{}` for the word.
        word: that was drawn.
        vectors: of the pictures, [n, features].

    Returns:
        the score.
    """
    text = without_word(template)
    vector = judge.text_vectors([text])[0]
    return PromptScore(
        prompt=template.replace("{}", word),
        text=text,
        text_similarity=text_similarity(vectors, vector),
        mean_text_similarity=mean_text_similarity(vectors, vector),
    )


def without_word(template: str) -> str:
    """A prompt with the word deleted, as the paper scores it: "a photo of on the moon"."""
    return " ".join(template.replace("{}", " ").split())
