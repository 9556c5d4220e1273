"""From what a user calls a model to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from ti_jax.errors import UserError
from ti_jax.weights.folder import open_folder
from ti_jax.weights.index import PIPELINES, read_index
from ti_jax.weights.layout import file_kinds, file_patterns, has_weights

BUNDLED = Path(__file__).parent.parent / "bundled"
_FOLDERS = sorted({folder for parts in PIPELINES.values() for folder, _ in parts.values()})
_SMALL_FILES = (
    "model_index.json",
    "inversion.json",
    "scheduler/scheduler_config.json",
    *(f"{folder}/*" if folder.startswith("tokenizer") else f"{folder}/config.json" for folder in _FOLDERS),
)
_CLIP_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")
_TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def resolve(source: str, *, variant: str | None = None, revision: str | None = None, weights: bool = True) -> Path:
    """A folder in diffusers format, or a single file.

    Args:
        source: `tiny`, the bundled model; a folder; a file; or an id on the Hugging Face hub, of which only what is
            needed is fetched, into huggingface_hub's cache.
        variant: of the weights, such as `fp16`.
        revision: branch, tag or commit on the hub.
        weights: whether they are needed; without, only configs and tokenizers are fetched.

    Returns:
        the folder or file.

    Raises:
        UserError: if there is no such folder or model, the hub cannot be reached, or what is there is not a pipeline
            that can be loaded.
    """
    if source.isidentifier() and (BUNDLED / source / "model_index.json").exists():
        return BUNDLED / source
    path = _local(source)
    if path.exists():
        if revision is not None:
            raise UserError(f"{source} is on this machine, and has no revisions: leave revision out")
        if variant is not None and path.is_file():
            raise UserError(f"{source} is one file, and has no variants: leave variant out")
        return path
    if not is_hub_id(source):
        raise UserError(
            f"there is no folder {source}: give one in diffusers format, an id on the hub (owner/name), a checkpoint "
            "file, or tiny"
        )
    return _fetch(source, variant, revision, weights)


def resolve_tokenizer(source: str) -> Path:
    """A folder with the files of a tokenizer, or of a model that has one.

    Args:
        source: `tiny`, a folder, or an id on the hub.

    Returns:
        the folder.

    Raises:
        UserError: if there is no such folder, and the hub has no such model or cannot be reached.
    """
    if source.isidentifier() and (BUNDLED / source / "model_index.json").exists():
        return BUNDLED / source
    path = _local(source)
    return path if path.is_dir() else _snapshot(source, None, list(_TOKENIZER_FILES))


def resolve_clip(source: str, *, revision: str | None = None) -> Path:
    """A folder with CLIP's towers in transformers' format.

    Args:
        source: `tiny`, the bundled one; a folder; or an id on the hub.
        revision: branch, tag or commit on the hub.

    Returns:
        the folder.

    Raises:
        UserError: if there is no such folder, and the hub has no such model or cannot be reached.
    """
    if source.isidentifier() and (BUNDLED / source / "clip").is_dir():
        return BUNDLED / source / "clip"
    path = _local(source)
    if path.exists():
        return path
    if not is_hub_id(source):
        raise UserError(f"there is no folder {source}: give one with a CLIP, an id on the hub (owner/name), or tiny")
    folder = _snapshot(source, revision, [*_CLIP_FILES, *_TOKENIZER_FILES])
    for kind in file_kinds("text_encoder", None):
        # At the top of the repository, where a pipeline has a folder for each network.
        patterns = [Path(pattern).name for pattern in file_patterns("text_encoder", *kind)]
        _snapshot(source, folder.name, patterns)
        if has_weights(folder, variant=None, network="text_encoder"):
            break
    return folder


def resolve_concept(source: str) -> Path:
    """A folder with an embedding of diffusers' scripts, such as the concepts library has (sd-concepts-library/cat-toy).

    Args:
        source: an id on the hub.

    Returns:
        the folder.

    Raises:
        UserError: if the hub has no such repository, or cannot be reached.
    """
    return _snapshot(source, None, ["learned_embeds.*", "learned_embeds_2.safetensors"])


def is_hub_id(source: str) -> bool:
    """Whether it reads owner/name, as a path may as well."""
    return _HUB_ID.fullmatch(source) is not None


def _local(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~ of a user that there is not
        return Path(source)


def _fetch(source: str, variant: str | None, revision: str | None, weights: bool) -> Path:
    folder = _snapshot(source, revision, list(_SMALL_FILES))
    index = read_index(folder, source=source)
    open_folder(folder, source=source)  # judges the configs before gigabytes are fetched that nobody can use
    commit = folder.name  # so that all the files are of one, though the branch may move
    for network in (part.folder for part in index.parts.values() if part.is_network and weights):
        for kind in file_kinds(network, variant):
            _snapshot(source, commit, file_patterns(network, *kind))
            if has_weights(folder / network, variant=variant):
                break
        else:
            hint = ' (if it has those of fp16 alone, say variant="fp16")' if variant is None else ""
            raise UserError(f"{source} has no weights of its {network} on the hub that can be read{hint}")
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
