"""Prompts with placeholders to token ids, without ever adding a token to a tokenizer.

A prompt is split at its placeholders and the pieces are tokenised apart, which gives the ids that a tokenizer with
added tokens gives, but for the placeholder's own: those positions are marked instead.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Shaped

from ti_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class TokenizedPrompts(NamedTuple):
    """Prompts as a text encoder takes them; a pytree."""

    ids: Int32[Shaped, "*n length"]
    """Ids in the vocabulary; 0 where a vector stands."""
    vector_index: Int32[Shaped, "*n length"]
    """Which vector stands here, counted over all placeholders; -1 for the vocabulary."""
    pool_index: Int32[Shaped, "*n"]
    """The position whose state is the prompt's pooled output."""


def tokenize(
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    placeholders: Mapping[str, int],
    *,
    max_length: int,
    overflow: Literal["error", "warn"] = "warn",
    eos_token_id: int | None = None,
) -> TokenizedPrompts:
    """Ids of prompts, padded to one length.

    Args:
        prompts: any text.
        tokenizer: CLIP's, unchanged.
        placeholders: number of vectors by word; the vectors of the second follow those of the first, and so on. A word
            is found in any case, the longest first, and not inside another word.
        max_length: tokens in all, begin and end included.
        overflow: what to do with a prompt that is longer: raise, or warn and cut its end off, as diffusers does.
        eos_token_id: of the text encoder's config, which says where it pools; the tokenizer's own if None.

    Returns:
        host arrays of shape [len(prompts), max_length] and [len(prompts)].

    Raises:
        UserError: if a prompt is too long and `overflow` says error, or if a placeholder would be cut off.
    """
    first = dict(zip(placeholders, np.cumsum([0, *placeholders.values()]).tolist(), strict=False))
    pattern = placeholder_pattern(placeholders)
    eos = _id(tokenizer, "eos") if eos_token_id is None else eos_token_id
    rows = [
        _tokenize_one(prompt, tokenizer, pattern, placeholders, first, max_length, overflow, eos) for prompt in prompts
    ]
    ids, index, pool = (np.asarray(column, np.int32) for column in zip(*rows, strict=True))
    return TokenizedPrompts(ids, index, pool)


def placeholder_pattern(placeholders: Mapping[str, int]) -> re.Pattern[str] | None:
    """A regular expression that finds any of the words in folded text, longest first, whole words only; None if there
    are none."""
    if not placeholders:
        return None
    words = sorted(map(fold, placeholders), key=len, reverse=True)
    return re.compile("|".join(map(_whole_word, words)))


def fold(text: str) -> str:
    """Text as CLIP's tokenizer sees it before it looks for added tokens: composed, and in lower case, letter by letter
    (`str.lower` of a whole text minds its neighbours)."""
    return "".join(map(str.lower, unicodedata.normalize("NFC", text)))


def _whole_word(word: str) -> str:
    """Brackets delimit themselves; a bare word must not be part of a longer one."""
    before = r"(?<!\w)" if re.match(r"\w", word) else ""
    after = r"(?!\w)" if re.search(r"\w$", word) else ""
    return before + re.escape(word) + after


def _tokenize_one(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    pattern: re.Pattern[str] | None,
    placeholders: Mapping[str, int],
    first: Mapping[str, int],
    max_length: int,
    overflow: str,
    eos: int,
) -> tuple[list[int], list[int], int]:
    words = {fold(word): word for word in placeholders}
    text = fold(prompt)
    ids: list[int] = []
    index: list[int] = []
    position = 0
    for match in pattern.finditer(text) if pattern else ():
        piece = _plain(tokenizer, text[position : match.start()])
        word = words[match.group()]
        ids += piece + [0] * placeholders[word]
        index += [-1] * len(piece) + list(range(first[word], first[word] + placeholders[word]))
        position = match.end()
    piece = _plain(tokenizer, text[position:])
    ids, index = ids + piece, index + [-1] * len(piece)
    room = max_length - 2
    if len(ids) > room:
        _overflow(prompt, tokenizer, placeholders, ids[room:], index[room:], len(ids) + 2, max_length, overflow)
        ids, index = ids[:room], index[:room]
    padding = max_length - 2 - len(ids)
    row = [_id(tokenizer, "bos"), *ids, _id(tokenizer, "eos")] + [_id(tokenizer, "pad")] * padding
    marks = [-1, *index, -1] + [-1] * padding
    return row, marks, _pool_index(row, marks, eos)


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text.strip() else []


def _id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    return getattr(tokenizer, f"{name}_token_id")


def _overflow(
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    placeholders: Mapping[str, int],
    ids: list[int],
    index: list[int],
    length: int,
    max_length: int,
    overflow: str,
) -> None:
    if max(index) >= 0:
        owners = [word for word, count in placeholders.items() for _ in range(count)]
        raise UserError(
            f"{owners[max(index)]} is cut off in {prompt!r}: that has {length} tokens and the model takes "
            f"{max_length}; shorten the text before it, or use fewer vectors"
        )
    if overflow == "error":
        raise UserError(f"{prompt!r} has {length} tokens and the model takes {max_length}: shorten it")
    logger.warning("the end of a prompt is cut off, at %d tokens: %r", max_length, tokenizer.decode(ids))


def _pool_index(ids: list[int], marks: list[int], eos: int) -> int:
    """Where transformers' `CLIPTextTransformer` pools.

    Configs from before its pull request 24773 say 2 and pool at the largest id, which is the end of the text until
    diffusers adds tokens: then it is the last vector of the last concept.
    """
    if eos == 2:
        largest = max(marks)
        return marks.index(largest) if largest >= 0 else ids.index(max(ids))
    return next((i for i, (token, mark) in enumerate(zip(ids, marks, strict=True)) if token == eos and mark < 0), 0)
