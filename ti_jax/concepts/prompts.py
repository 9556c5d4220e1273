"""Prompts with placeholders to token ids, without ever adding a token to a tokenizer.

A prompt is split at its placeholders and the pieces are tokenised apart, which gives the ids that a tokenizer with
added tokens gives, but for the placeholder's own: those positions are marked instead.
"""

from __future__ import annotations

import itertools
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

_LONGEST_WORD = 200  # letters

Unit = tuple[list[int], list[int]]
"""Tokens that stay together, ids and indices of vectors: one of the vocabulary, or all the vectors of a word."""
Row = tuple[list[int], list[int], int]
"""Ids, indices of vectors and the pooled position of a prompt."""


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
    vocabulary = Vocabulary(tokenizer, placeholders)
    eos = vocabulary.end if eos_token_id is None else eos_token_id
    rows = []
    for prompt in prompts:
        units = vocabulary.units(prompt)
        rows.append(vocabulary.row(vocabulary.cut(prompt, units, max_length, overflow), max_length, eos))
    return stack(rows)


def stack(rows: Sequence[Row]) -> TokenizedPrompts:
    """Rows of one length as arrays."""
    ids, index, pool = (np.asarray(column, np.int32) for column in zip(*rows, strict=True))
    return TokenizedPrompts(ids, index, pool)


def placeholder_pattern(placeholders: Mapping[str, int]) -> re.Pattern[str] | None:
    """A regular expression that finds any of the words in folded text, longest first, whole words only; None if there
    are none."""
    if not placeholders:
        return None
    words = sorted(map(fold, placeholders), key=len, reverse=True)
    return re.compile("|".join(map(whole_word, words)))


def fold(text: str) -> str:
    """Text as CLIP's tokenizer sees it before it looks for added tokens: composed, and in lower case, letter by letter
    (`str.lower` of a whole text minds its neighbours)."""
    return "".join(map(str.lower, unicodedata.normalize("NFC", text)))


def is_word(text: str) -> bool:
    """Whether a placeholder could stand in a prompt: it can be seen, is on one line, and not endless."""
    return text.isprintable() and bool(text.strip()) and len(text) <= _LONGEST_WORD


def whole_word(word: str) -> str:
    """A regular expression for a word. Brackets delimit themselves; a bare word must not be part of a longer one."""
    before = r"(?<!\w)" if re.match(r"\w", word) else ""
    after = r"(?!\w)" if re.search(r"\w$", word) else ""
    return before + re.escape(word) + after


class Vocabulary:
    """A tokenizer, and words that stand for vectors.

    Args:
        tokenizer: unchanged.
        placeholders: number of vectors by word.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, placeholders: Mapping[str, int]) -> None:
        self.tokenizer = tokenizer
        self.end = _id(tokenizer, "eos")
        self._families = _families({token.content: i for i, token in tokenizer.added_tokens_decoder.items()})
        self._pattern = placeholder_pattern(placeholders)
        self._owners = [word for word, count in placeholders.items() for _ in range(count)]
        first = dict(zip(placeholders, np.cumsum([0, *placeholders.values()]).tolist(), strict=False))
        self._vectors = {
            fold(word): list(range(first[word], first[word] + count)) for word, count in placeholders.items()
        }

    @property
    def comma(self) -> Unit | None:
        """The comma, if it is one token."""
        units = self._plain(",")
        return units[0] if len(units) == 1 else None

    def units(self, text: str) -> list[Unit]:
        """What a text is made of, in order: tokens, and words that stand for vectors."""
        text, units, position = fold(text), list[Unit](), 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            vectors = self._vectors[match.group()]
            units += [*self._plain(text[position : match.start()]), ([0] * len(vectors), vectors)]
            position = match.end()
        return units + self._plain(text[position:])

    def cut(self, prompt: str, units: list[Unit], max_length: int, overflow: Literal["error", "warn"]) -> list[Unit]:
        """The units that the encoder has room for.

        Raises:
            UserError: if the rest has a placeholder, or there is one and `overflow` says error.
        """
        ends = np.cumsum([len(ids) for ids, _ in units]) + 2
        kept = int(np.searchsorted(ends, max_length, side="right"))
        if kept == len(units):
            return units
        rest = [index for _, unit in units[kept:] for index in unit]
        if max(rest) >= 0:
            raise UserError(
                f"{self._owners[max(rest)]} is cut off in {prompt!r}: that has {ends[-1]} tokens and the model takes "
                f"{max_length}; shorten the text before it, or use fewer vectors"
            )
        if overflow == "error":
            raise UserError(f"{prompt!r} has {ends[-1]} tokens and the model takes {max_length}: shorten it")
        text = self.tokenizer.decode([token for ids, _ in units[kept:] for token in ids])
        logger.warning("the end of a prompt is cut off, at %d tokens: %r", max_length, text)
        return units[:kept]

    def row(self, units: Sequence[Unit], max_length: int, eos: int) -> Row:
        """Units with begin, end and padding.

        Args:
            units: of at most `max_length` - 2 tokens.
            max_length: of the row.
            eos: of the text encoder's config, which says where it pools.
        """
        ids = [token for unit, _ in units for token in unit]
        index = [i for _, unit in units for i in unit]
        padding = max_length - 2 - len(ids)
        ids = [_id(self.tokenizer, "bos"), *ids, self.end] + [_id(self.tokenizer, "pad")] * padding
        index = [-1, *index, -1] + [-1] * padding
        return ids, index, _pool_index(ids, index, eos)

    def _plain(self, text: str) -> list[Unit]:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text.strip() else []
        families = [self._families.get(token, [token]) for token in ids]
        return [(family, [-1] * len(family)) for family in families]


def _families(added: Mapping[str, int]) -> dict[int, list[int]]:
    """Words of several vectors that were saved into a model: of each its first token and all of them, which diffusers
    puts in its place (`maybe_convert_prompt` in loaders/textual_inversion.py)."""
    families = {}
    for word, first in added.items():
        others = itertools.takewhile(lambda token: token in added, (f"{word}_{i}" for i in itertools.count(1)))
        families[first] = [first, *(added[token] for token in others)]
    return families


def _id(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Of a token by its role; BERT has other names for begin and end."""
    own = getattr(tokenizer, f"{name}_token_id")
    return getattr(tokenizer, {"bos": "cls_token_id", "eos": "sep_token_id"}[name]) if own is None else own


def _pool_index(ids: list[int], marks: list[int], eos: int) -> int:
    """Where transformers' `CLIPTextTransformer` pools.

    Configs from before its pull request 24773 say 2 and pool at the largest id, which is the end of the text until
    diffusers adds tokens: then it is the last vector of the last concept.
    """
    if eos == 2:
        largest = max(marks)
        return marks.index(largest) if largest >= 0 else ids.index(max(ids))
    return next((i for i, (token, mark) in enumerate(zip(ids, marks, strict=True)) if token == eos and mark < 0), 0)
