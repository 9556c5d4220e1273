"""From what a user calls a model to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from ti_jax.errors import UserError
from ti_jax.weights.index import read_components
from ti_jax.weights.layout import NETWORKS, file_kinds, file_patterns, has_weights

BUNDLED = Path(__file__).parent.parent / "bundled"
_SMALL_FILES = (
    "model_index.json",
    "inversion.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
    *(f"{network}/config.json" for network in NETWORKS),
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


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
        UserError: if there is no such folder or model, the hub cannot be reached, or what is there is not a pipeline
            that can be loaded.
    """
    if source.isidentifier() and (BUNDLED / source / "model_index.json").exists():
        return BUNDLED / source
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{source} is a single file: give a folder in diffusers format, or an id on the hub")
    if not _HUB_ID.fullmatch(source):
        raise UserError(
            f"there is no folder {source}: give one in diffusers format, an id on the hub (owner/name), or tiny"
        )
    return _fetch(source, variant, revision)


def _fetch(source: str, variant: str | None, revision: str | None) -> Path:
    folder = _snapshot(source, revision, list(_SMALL_FILES))
    read_components(folder, source=source)  # before gigabytes are fetched that nobody can use
    commit = folder.name  # so that all the files are of one, though the branch may move
    for network in NETWORKS:
        for kind in file_kinds(network, variant):
            _snapshot(source, commit, file_patterns(network, *kind))
            if has_weights(folder / network, variant=variant):
                break
    return folder


def _snapshot(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download  # slow to import

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise UserError(f"{source} is gated: accept its licence at hf.co/{source}, then run `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"there is no folder {source}, and the hub has no such model, or a private one (then run `hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{source} has no revision {revision} on the hub") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"there is no folder {source}, and {source} on the hub cannot be reached and is not, or not whole, in the "
            "cache: go online once, or give the path of a folder"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{source} could not be fetched from the hub: {error}") from error
