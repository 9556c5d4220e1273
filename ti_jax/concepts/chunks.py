"""Prompts of any length in chunks, and with weights, for generation.

Source: AUTOMATIC1111/stable-diffusion-webui, modules/sd_hijack_clip.py, `tokenize_line`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32, Shaped

from ti_jax.concepts.emphasis import Piece, parse_emphasis
from ti_jax.concepts.prompts import TokenizedPrompts, Unit, Vocabulary, stack
from ti_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_BACKTRACK = 20  # tokens after the last comma that rather go to the next chunk; A1111's `comma_padding_backtrack`

_LONG_PROMPTS = ("cut", "chunk")
_EMPHASIS = ("off", "a1111")

Chunk = list[tuple[Unit, float]]
"""Tokens and their weights."""


class ChunkedPrompts(NamedTuple):
    """Prompts as a text encoder takes them, chunk by chunk; a pytree."""

    tokens: TokenizedPrompts
    """Ids and indices of vectors of shape [n, chunks, length]."""
    weights: Float32[Shaped, "*n length"] | None
    """Of each token, 1 for no emphasis; None if there is none at all."""


def tokenize_chunks(
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    placeholders: Mapping[str, int],
    *,
    max_length: int,
    long_prompts: str,
    emphasis: str,
    eos_token_id: int | None = None,
) -> ChunkedPrompts:
    """Ids and weights of prompts, in as many chunks as the longest takes.

    Args:
        prompts: any text.
        tokenizer: unchanged.
        placeholders: number of vectors by word, see `prompts.tokenize`. The vectors of a word stay in one chunk.
        max_length: tokens of a chunk, begin and end included.
        long_prompts: what to do with a prompt that is longer: `cut` its end off with a warning, or go on in a further
            `chunk`, with begin and end of its own, after a comma where one is near.
        emphasis: `off` if brackets are text, `a1111` if they give weights.
        eos_token_id: of the text encoder's config.

    Returns:
        host arrays of shape [len(prompts), chunks, max_length], and [len(prompts), chunks] for the pooled position.

    Raises:
        UserError: if a placeholder would be cut off, or has more vectors than a chunk has room for; or if an option is
            none of those.
    """
    _check("long_prompts", long_prompts, _LONG_PROMPTS)
    _check("emphasis", emphasis, _EMPHASIS)
    vocabulary = Vocabulary(tokenizer, placeholders)
    eos = vocabulary.end if eos_token_id is None else eos_token_id
    room = max_length - 2
    chunked: list[list[Chunk]] = []
    for prompt in prompts:
        pieces = parse_emphasis(prompt, placeholders) if emphasis == "a1111" else [Piece(prompt, 1.0)]
        if long_prompts == "chunk":
            chunked.append(_fill(pieces, vocabulary, room))
        else:
            weighted = [(unit, piece.weight) for piece in pieces for unit in vocabulary.units(piece.text)]
            if any(piece.breaks for piece in pieces):
                logger.warning("BREAK begins no chunk in %r: long prompts are cut (--long-prompts chunk)", prompt)
            kept = vocabulary.cut(prompt, [unit for unit, _ in weighted], max_length, "warn")
            chunked.append([weighted[: len(kept)]])
    count = max(map(len, chunked))
    chunks = [chunk for each in chunked for chunk in each + [[]] * (count - len(each))]
    rows = stack([vocabulary.row([unit for unit, _ in chunk], max_length, eos) for chunk in chunks])
    tokens = TokenizedPrompts(*(array.reshape(len(prompts), count, *array.shape[1:]) for array in rows))
    if emphasis == "off":
        return ChunkedPrompts(tokens, None)
    weights = np.asarray([_weights(chunk, max_length) for chunk in chunks], np.float32)
    return ChunkedPrompts(tokens, weights.reshape(tokens.ids.shape))


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} = {value!r}: it is {' or '.join(allowed)}")


def _fill(pieces: Sequence[Piece], vocabulary: Vocabulary, room: int) -> list[Chunk]:
    """Parts of a prompt in as few chunks as there need be."""
    chunks: list[Chunk] = [[]]
    comma = vocabulary.comma
    for piece in pieces:
        if piece.breaks:
            chunks.append([])
        for unit in vocabulary.units(piece.text):
            if len(unit[0]) > room:
                raise UserError(f"a word of {len(unit[0])} vectors does not fit into a chunk of {room} tokens")
            while _size(chunks[-1]) + len(unit[0]) > room:
                chunks.append([] if unit == comma else _after_comma(chunks[-1], comma, room))
            chunks[-1].append((unit, piece.weight))
    return chunks if len(chunks) == 1 or chunks[-1] else chunks[:-1]


def _after_comma(chunk: Chunk, comma: Unit | None, room: int) -> Chunk:
    """Takes what follows the last comma out of a full chunk, if that is little."""
    commas = [i for i, (unit, _) in enumerate(chunk) if unit == comma]
    if not commas or _size(chunk) < room or _size(chunk[commas[-1] :]) > _BACKTRACK:
        return []
    moved = chunk[commas[-1] + 1 :]
    del chunk[commas[-1] + 1 :]
    return moved


def _size(chunk: Chunk) -> int:
    return sum(len(ids) for (ids, _), _ in chunk)


def _weights(chunk: Chunk, length: int) -> list[float]:
    """A weight a token, begin, end and padding included."""
    weights = [weight for (ids, _), weight in chunk for _ in ids]
    return [1.0, *weights, *[1.0] * (length - 1 - len(weights))]
