"""Several concepts for one file or one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ti_jax.concepts.concept import Concept
from ti_jax.concepts.prompts import fold
from ti_jax.errors import UserError


def merge(concepts: Sequence[Concept], *, on_clash: Literal["refuse", "rename"] = "refuse") -> list[Concept]:
    """Concepts that can stand in one prompt: all of one model, and each with a word of its own.

    Args:
        concepts: in the order of their files.
        on_clash: what to do with a word that an earlier concept has, in whatever case: refuse it, or number it, as in
            `<fox>`, `<fox-2>`.

    Returns:
        the same concepts, renamed where need be.

    Raises:
        UserError: if there are none, two are of different models, or two have the same word and `on_clash` says refuse.
    """
    if not concepts:
        raise UserError("there is no concept to merge: name two files or more")
    merged: list[Concept] = []
    for concept in concepts:
        taken = {fold(other.placeholder) for other in merged}
        if _widths(concept) != _widths(concepts[0]):
            raise UserError(
                f"{concept.placeholder} has vectors of {_widths(concept)} and {concepts[0].placeholder} of "
                f"{_widths(concepts[0])}: they are of different models"
            )
        if fold(concept.placeholder) in taken and on_clash == "refuse":
            raise UserError(
                f"two concepts have the word {concept.placeholder}: write one of them anew with "
                "ti-jax convert --token, or number them by --on-clash rename"
            )
        merged.append(Concept(_free(concept.placeholder, taken), concept.vectors, concept.metadata))
    return merged


def _free(word: str, taken: set[str]) -> str:
    """The word, or else the first of its numbered forms that is free."""
    name, bracket = (word[:-1], ">") if word.endswith(">") else (word, "")
    number, free = 1, word
    while fold(free) in taken:
        number += 1
        free = f"{name}-{number}{bracket}"
    return free


def _widths(concept: Concept) -> str:
    return ", ".join(f"{name} {values.shape[1]}" for name, values in concept.vectors.items())
