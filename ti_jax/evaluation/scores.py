"""Similarities of unit vectors, as the paper and its code define them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def image_similarity(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> float:
    """Mean cosine of all pairs: "average pair-wise CLIP-space cosine-similarity" (Gal et al. 2022, section 5.1).

    Args:
        a: unit vectors of pictures.
        b: those of others.

    Returns:
        in [-1, 1].
    """
    return float(np.mean(a @ b.T))


def similarity_within(a: Float[np.ndarray, "n features"]) -> float | None:
    """Mean cosine of the pairs of different pictures; None if there is only one."""
    count = len(a)
    return None if count < 2 else float((np.sum(a @ a.T) - np.sum(a * a)) / (count * (count - 1)))


def text_similarity(pictures: Float[np.ndarray, "n features"], text: Float[np.ndarray, " features"]) -> float:
    """Cosine of a text with the pictures' average: the paper's measure of editability (section 5.1).

    Args:
        pictures: unit vectors.
        text: a unit vector.

    Returns:
        in [-1, 1].
    """
    average = pictures.mean(axis=0)
    return float(average @ text / np.linalg.norm(average))


def mean_text_similarity(pictures: Float[np.ndarray, "n features"], text: Float[np.ndarray, " features"]) -> float:
    """Mean over the pictures of their cosine with a text: what the paper's code computes (`evaluation/clip_eval.py`).

    It is the paper's own measure times the length of the pictures' average, so never larger where that is positive.
    """
    return float(np.mean(pictures @ text))
