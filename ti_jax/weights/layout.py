"""Which files of a model hold the weights of its networks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from ti_jax.errors import UserError

logger = logging.getLogger(__name__)


def file_kinds(network: str, variant: str | None) -> list[tuple[str, str]]:
    """Ways in which weights may be written, best first.

    Args:
        network: name of its folder.
        variant: that is asked for, such as `fp16`.

    Returns:
        (suffix, extension) pairs. Some repositories have a variant of a few networks only, and the others' plain files
        do; one that has none of the UNet does not have the variant.
    """
    suffixes = [""] if variant is None else [f".{variant}"] if network == "unet" else [f".{variant}", ""]
    return [(suffix, extension) for extension in ("safetensors", "bin") for suffix in suffixes]


def file_names(network: str, suffix: str, extension: str) -> list[str]:
    """The file that holds all the weights, or the index that names several; diffusers has had three names for that."""
    stem = _stem(network, extension)
    whole, plain = f"{stem}{suffix}.{extension}", f"{stem}.{extension}"
    indices = (f"{whole}.index", f"{plain}.index{suffix}", f"{plain}{suffix}.index")
    return [whole, *dict.fromkeys(f"{name}.json" for name in indices)]


def file_patterns(network: str, suffix: str, extension: str) -> list[str]:
    """Patterns of all the files of one kind, for fetching them."""
    stem = _stem(network, extension)
    shards = dict.fromkeys((f"{stem}{suffix}-*.{extension}", f"{stem}-*{suffix}.{extension}"))
    names = [*file_names(network, suffix, extension), *shards]
    return [f"{network}/{name}" for name in names]


def find_weights(folder: Path, *, variant: str | None, network: str | None = None) -> Path:
    """The file with the weights of a network, or the index of several.

    Args:
        folder: of the network.
        variant: such as `fp16`; None for plain files.
        network: what it would be called in a pipeline; the folder's name if None.

    Returns:
        the file that exists, safetensors before pickled ones.

    Raises:
        UserError: if there is none; it names what was looked for and what there is.
    """
    network = folder.name if network is None else network
    kinds = file_kinds(network, variant)
    found = next(_existing(folder, network, kinds), None)
    if found is None:
        there = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else ["nothing"]
        hint = ' (to take those, say variant="fp16")' if variant is None and any(".fp16." in n for n in there) else ""
        wanted = file_names(network, *kinds[0])[0]
        raise UserError(f"{folder} has no {wanted}; it holds {', '.join(there) or 'nothing'}{hint}")
    if variant is not None and f".{variant}." not in found.name:
        logger.warning("%s has no %s weights: taking %s", folder, variant, found.name)
    return found


def has_weights(folder: Path, *, variant: str | None, network: str | None = None) -> bool:
    """Whether `find_weights` would find any."""
    network = folder.name if network is None else network
    return any(_existing(folder, network, file_kinds(network, variant)))


def _existing(folder: Path, network: str, kinds: list[tuple[str, str]]) -> Iterator[Path]:
    names = (name for kind in kinds for name in file_names(network, *kind))
    return (folder / name for name in names if (folder / name).exists())


def _stem(network: str, extension: str) -> str:
    """transformers writes the text encoders, diffusers the rest."""
    if not network.startswith(("text_encoder", "bert")):
        return "diffusion_pytorch_model"
    return "model" if extension == "safetensors" else "pytorch_model"
