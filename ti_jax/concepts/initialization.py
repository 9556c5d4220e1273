"""Where the optimisation of a new word starts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float32, Key

from ti_jax.concepts.formats.content import show
from ti_jax.concepts.formats.read import READABLE, read_all
from ti_jax.concepts.prompts import is_word
from ti_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def initial_vectors(
    initializer: str,
    num_vectors: int | None,
    table: Float32[np.ndarray, "vocabulary width"],
    tokenizer: PreTrainedTokenizerBase,
    key: Key[jax.Array, ""],
    *,
    encoder: str = "text_encoder",
) -> Float32[np.ndarray, "n width"]:
    """The first vectors of a concept.

    Args:
        initializer: a word or phrase, whose token embeddings are taken; `random`, for normal draws with the mean and
            deviation of each dimension over the vocabulary; or an embedding file, or a run folder with a `/` in its
            name, to go on from.
        num_vectors: how many. A phrase of fewer tokens is repeated in turn. None: as many as it has tokens or vectors.
        table: the frozen token embeddings.
        tokenizer: of the encoder.
        key: for `random`.
        encoder: whose vectors are taken from a file.

    Returns:
        float32 vectors.

    Raises:
        UserError: if a phrase has more tokens than there are vectors, or none that the tokenizer knows; or if a file
            has vectors of another width or number.
    """
    if is_path(initializer):
        return _from_file(initializer, num_vectors, table.shape[1], encoder)
    if initializer == "random":
        draws = jax.random.normal(key, (num_vectors or 1, table.shape[1]), jnp.float32)
        return table.mean(axis=0) + table.std(axis=0) * np.asarray(draws)
    ids = phrase_ids(initializer, tokenizer)
    count = len(ids) if num_vectors is None else num_vectors
    if len(ids) > count:
        words = ", ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(ids))
        raise UserError(
            f"the initialiser {initializer!r} has {len(ids)} tokens ({words}) for {count} vector(s): "
            f"give a shorter one, or --num-vectors {len(ids)}"
        )
    return table[[ids[i % len(ids)] for i in range(count)]]


def phrase_ids(phrase: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a phrase without begin and end.

    Raises:
        UserError: if it is empty, or the tokenizer cannot spell it.
    """
    ids = tokenizer(phrase, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        raise UserError(f"the initialiser {phrase!r} has no token in the vocabulary: give a plain word")
    return ids


def check_placeholder(word: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses a placeholder that prompts could mean otherwise.

    Args:
        word: the new word.
        tokenizer: of the model.

    Raises:
        UserError: if it is empty or endless, has white space or what cannot be printed, or is a word that the
            vocabulary has as one token.
    """
    if not is_word(word) or re.search(r"\s", word):
        raise UserError(f"the placeholder {show(word)!r} must be one word, such as <fox>")
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if word in tokenizer.all_special_tokens or (len(ids) == 1 and ids[0] != tokenizer.unk_token_id):
        raise UserError(f"the placeholder {word!r} is a word of the vocabulary: mark it as new, such as <{word}>")


def is_path(initializer: str) -> bool:
    """Whether it names vectors. A word stays a word, even where the current folder has a folder of that name.

    Raises:
        UserError: if it looks like a folder that there is not.
    """
    if initializer.lower().endswith(tuple(READABLE)) or "://" in initializer:
        return True
    if "/" not in initializer:
        return False
    is_folder = epath.Path(initializer).is_dir()
    if not is_folder and " " not in initializer:
        raise UserError(f"there is no folder {initializer} to begin with; write a phrase without /")
    return is_folder


def _from_file(path: str, num_vectors: int | None, width: int, encoder: str) -> np.ndarray:
    concepts = read_all(path)
    if len(concepts) > 1:
        raise UserError(f"{path} holds several concepts: write the one to begin with by ti-jax convert --token")
    vectors = concepts[0].vectors
    name = encoder if encoder in vectors else next(iter(vectors))
    found = np.asarray(vectors[name], np.float32)
    if found.shape[1] != width:
        raise UserError(f"the vectors in {path} have width {found.shape[1]}, this model's {width}: it is of another")
    if num_vectors is not None and num_vectors != len(found):
        raise UserError(f"{path} has {len(found)} vectors, not the {num_vectors} asked for: leave --num-vectors out")
    return found
