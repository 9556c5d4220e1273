"""The bundled model's tokenizer: a small byte-pair encoding in CLIP's format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from captions import caption
from drawings import Drawings
from feed import TRAINING
from scenes import random_scene

from ti_jax.concepts.prompts import tokenize
from ti_jax.data.captions import OBJECT_TEMPLATES, STYLE_TEMPLATES
from ti_jax.models.clip import CLIPTextConfig
from ti_jax.weights.loader import parameter_name
from ti_jax.weights.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VOCABULARY, LENGTH = 4096, 32
TEXT = CLIPTextConfig(
    vocab_size=VOCABULARY,
    hidden_size=128,
    intermediate_size=512,
    projection_dim=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=LENGTH,
    eos_token_id=1,
)
"""The text encoder's sizes, in CLIP and under the UNet alike."""
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CAPTIONS = 20_000


def load_or_train_tokenizer(drawings: Drawings, folder: Path, *, captions: int = _CAPTIONS) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, which is trained first if there is none."""
    if not (folder / "tokenizer.json").exists():
        train_tokenizer(drawings, folder, captions=captions)
    return load_tokenizer(folder)


def train_tokenizer(drawings: Drawings, folder: Path, *, captions: int) -> None:
    """Learns the words of captions and saves the tokenizer as transformers does.

    Args:
        drawings: those seen in training; their names and keywords are learned too.
        folder: for `tokenizer.json` and its config.
        captions: how many to learn from.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    rough = CLIPTokenizer(vocab={_START: 0, _END: 1}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[_START, _END], initial_alphabet=letters, end_of_word_suffix="</w>"
    )
    rough.train_from_iterator(_texts(drawings, captions), trainer)
    merges = [tuple(pair) for pair in json.loads(rough.to_str())["model"]["merges"]][
        : VOCABULARY - 2 - 2 * len(letters)
    ]
    # Every byte alone and at the end of a word, so that no text is unknown.
    entries = [_START, _END, *letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # pyright: ignore[reportArgumentType]  they are pairs, whatever it is annotated with
        model_max_length=LENGTH,
    )
    tokenizer.save_pretrained(folder)


def _texts(drawings: Drawings, count: int) -> Iterator[str]:
    for concept in drawings.concepts.values():
        yield from (concept.name, *concept.keywords)
    yield from OBJECT_TEMPLATES + STYLE_TEMPLATES
    for index in range(count):
        yield caption(random_scene(drawings, (TRAINING, index)), drawings)


def ids_of(tokenizer: PreTrainedTokenizerBase, captions: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of captions, int32 [n, LENGTH], and the position of each one's end."""
    tokens = tokenize(list(captions), tokenizer, {}, max_length=LENGTH)
    return tokens.ids, tokens.pool_index


def small_embeddings(model: Any) -> Any:
    """A model of fresh parameters with its tables as transformers begins them: standard deviation 0.02."""

    def smaller(path: Any, leaf: jax.Array) -> jax.Array:
        return 0.02 * leaf / jnp.std(leaf) if parameter_name(path).endswith("_embedding.embedding") else leaf

    return jax.tree_util.tree_map_with_path(smaller, model)
