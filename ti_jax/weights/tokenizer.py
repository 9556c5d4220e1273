"""The tokenizer of a text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ti_jax.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """CLIP's tokenizer, from `tokenizer.json`, or from `vocab.json` and `merges.txt`.

    Args:
        folder: that holds them.

    Returns:
        the tokenizer.

    Raises:
        UserError: if a file is missing or damaged.
    """
    # Without its files transformers makes a tokenizer of two words and says nothing.
    if not (folder / "tokenizer.json").exists():
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).exists():
                raise UserError(f"{folder / name} is missing, and so is tokenizer.json: copy the whole model")
    from transformers import CLIPTokenizer  # slow to import

    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust tokenizers raise bare Exceptions
        raise UserError(f"{folder} holds a damaged tokenizer ({error}): copy or download it again") from error
