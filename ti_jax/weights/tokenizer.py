"""The tokenizer of a text encoder."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ti_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_MERGES = Path(__file__).parent.parent / "bundled" / "clip_tokenizer" / "merges.txt.gz"
CLIP_LENGTH = 77


def clip_tokenizer(*, padding: str) -> PreTrainedTokenizerBase:
    """The tokenizer that every CLIP in Stable Diffusion shares, from the merges that ship with the package.

    Args:
        padding: the token that pads: `<|endoftext|>` for OpenAI's encoder, `!` for OpenCLIP's.

    Returns:
        the tokenizer of 49408 words. They are numbered as in OpenAI's `simple_tokenizer.py`: bytes, bytes that end a
        word, merges, begin and end.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    with gzip.open(_MERGES, "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().splitlines()[1:]]
    letters = sorted(ByteLevel.alphabet())
    ends = [f"{letter}</w>" for letter in letters]
    words = [*letters, *ends, *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = _transformers().CLIPTokenizer
    return tokenizer(vocabulary, merges, pad_token=padding, model_max_length=CLIP_LENGTH)


def load_tokenizers(folder: Path, encoders: Iterable[str]) -> dict[str, PreTrainedTokenizerBase]:
    """The tokenizers of a model.

    Args:
        folder: that holds `tokenizer`, `tokenizer_2` and so on; or the files of one tokenizer, for all.
        encoders: which want one: `text_encoder`, `text_encoder_2` and so on.

    Returns:
        the tokenizers by encoder.

    Raises:
        UserError: if a file is missing or damaged.
    """
    places = {name: folder / name.replace("text_encoder", "tokenizer") for name in encoders}
    return {name: load_tokenizer(place if place.is_dir() else folder) for name, place in places.items()}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """CLIP's tokenizer, from `tokenizer.json`, or from `vocab.json` and `merges.txt`; or BERT's, from `tokenizer.json`
    or `vocab.txt`.

    Args:
        folder: that holds them.

    Returns:
        the tokenizer.

    Raises:
        UserError: if a file is missing or damaged.
    """
    transformers = _transformers()
    kind = transformers.BertTokenizer if _is_bert(folder) else transformers.CLIPTokenizer
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
        if not tokenizer.model_max_length > 2:  # begin, end and something between
            raise ValueError(f"model_max_length = {tokenizer.model_max_length}")
        return tokenizer
    except Exception as error:  # the Rust tokenizers raise bare Exceptions
        raise UserError(f"{folder} holds a damaged tokenizer ({error}): copy or download it again") from error


def _transformers() -> ModuleType:
    """The library, which is slow to import; without its remark that PyTorch is missing: tokenizers do not want it."""
    quiet = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(quiet)
    os.environ[quiet] = "1"
    try:
        import transformers
    finally:
        if before is None:
            del os.environ[quiet]
        else:
            os.environ[quiet] = before
    return transformers


def _is_bert(folder: Path) -> bool:
    """Whose tokenizer a folder holds; raises UserError where files are missing, of which transformers says nothing, but
    makes a tokenizer of two words."""
    if (folder / "tokenizer.json").exists():
        return re.search(rb'"type":\s*"WordPiece"', (folder / "tokenizer.json").read_bytes()) is not None
    if (folder / "vocab.txt").exists():
        return True
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing, and so is tokenizer.json: copy the whole model")
    return False
