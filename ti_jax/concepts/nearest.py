"""Which words of the vocabulary a vector is close to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def nearest_words(
    vectors: Float32[np.ndarray, "n width"],
    table: Float32[np.ndarray, "vocabulary width"],
    tokenizer: PreTrainedTokenizerBase,
    count: int,
) -> list[list[tuple[str, float]]]:
    """The tokens with the largest cosine to each vector.

    Args:
        vectors: of a word.
        table: token embeddings.
        tokenizer: of the encoder.
        count: how many tokens.

    Returns:
        a list a vector: tokens as the vocabulary spells them, without the mark of a word's end, and cosines in
        [-1, 1], the largest first.
    """
    cosines = _unit(vectors) @ _unit(table[: len(tokenizer)]).T
    best = np.argsort(-cosines, axis=1)[:, :count]
    return [
        [
            (token.removesuffix("</w>"), float(row[i]))
            for i, token in zip(ids, tokenizer.convert_ids_to_tokens(ids.tolist()), strict=True)
        ]
        for ids, row in zip(best, cosines, strict=True)
    ]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
