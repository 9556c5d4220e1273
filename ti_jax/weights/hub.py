"""From what a user calls a model to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from ti_jax.errors import UserError

BUNDLED = Path(__file__).parent.parent / "bundled"
_WHOLE = ("model_index.json", "*/config.json", "scheduler/*.json", "tokenizer*/*")
_WEIGHTS = ("text_encoder*", "unet", "vae")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def resolve(source: str, *, variant: str | None = None, revision: str | None = None) -> Path:
    """A folder in diffusers format.

    Args:
        source: `tiny`, the bundled model; a folder; or an id on the Hugging Face hub, of which only what is needed is
            fetched, into huggingface_hub's cache.
        variant: of the weights, such as `fp16`.
        revision: branch, tag or commit on the hub.

    Returns:
        the folder.

    Raises:
        UserError: if there is no such folder or model, or the hub cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    if (BUNDLED / source / "model_index.json").exists():
        return BUNDLED / source
    if Path(source).exists() or source.endswith((".safetensors", ".ckpt")):
        raise UserError(f"{source} is not a folder: give a pipeline in diffusers format, or an id on the hub")
    if not _HUB_ID.fullmatch(source):
        raise UserError(f"there is no folder {source}, and it is no id on the hub (which is like owner/name)")
    return _fetch(source, variant, revision)


def _fetch(source: str, variant: str | None, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    middle = "" if variant is None else f".{variant}"
    files = [f"{folder}/*model{middle}.safetensors" for folder in _WEIGHTS]
    files += [f"{folder}/*model{middle}-*.safetensors" for folder in _WEIGHTS]
    files += [f"{folder}/*.index*.json" for folder in _WEIGHTS]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=[*_WHOLE, *files]))
    except RepositoryNotFoundError as error:
        raise UserError(f"the hub has no model {source} (or it is private: run `hf auth login`)") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{source} is not in the cache and the hub cannot be reached: go online once, or give a local folder"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"{source} could not be fetched from the hub: {error}") from error
