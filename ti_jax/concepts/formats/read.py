"""A file to concepts."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import Array

from ti_jax.concepts.concept import Concept
from ti_jax.concepts.formats import pickled, png, safetensors
from ti_jax.concepts.formats.content import Content, show, vectors
from ti_jax.concepts.formats.layouts import Found, find
from ti_jax.concepts.prompts import fold, is_word
from ti_jax.errors import UserError
from ti_jax.files import locate
from ti_jax.weights.hub import is_hub_id, resolve_concept

logger = logging.getLogger(__name__)

READABLE = {
    ".safetensors": safetensors,
    ".pti": safetensors,
    ".pt": pickled,
    ".pth": pickled,
    ".bin": pickled,
    ".ckpt": pickled,
    ".png": png,
}
_OF_A_RUN = ("learned_embeds.safetensors", "learned_embeds.bin")  # what is meant where a folder is named


def read(path: epath.PathLike, *, token: str | None = None) -> Concept:
    """Reads an embedding file that holds one concept, or one of a file of several.

    Args:
        path: of a file or of a run folder, local or remote; or an id on the Hugging Face hub.
        token: the word to use; the file's own if None, or else its name. Of several concepts, the word of the one.

    Returns:
        the concept, vectors in float32.

    Raises:
        UserError: if there is no such file, it cannot be read safely, its layout is not known, it holds several
            concepts and `token` is none of their words, or `token` is no word for a prompt.
    """
    if token is not None and not is_word(token):
        raise UserError(f"{show(token)!r} is no word for a prompt: give another --token, such as <fox>")
    concepts = read_all(path)
    if len(concepts) == 1:
        (concept,) = concepts
        return concept if token is None else Concept(token, concept.vectors, concept.metadata)
    for concept in concepts:
        if token is not None and fold(concept.placeholder) == fold(token):
            return concept
    words = ", ".join(show(concept.placeholder) for concept in concepts[:20])
    raise UserError(f"{path} holds several concepts ({words}): choose one by --token")


def read_all(path: epath.PathLike) -> list[Concept]:
    """Reads every concept of an embedding file.

    Args:
        path: of a file or of a run folder, local or remote; or an id on the Hugging Face hub. Of the two files that
            diffusers' SDXL script writes, `learned_embeds.safetensors` and `learned_embeds_2.safetensors`, either
            stands for both.

    Returns:
        the concepts in the file's order, vectors in float32.

    Raises:
        UserError: if there is no such file, it cannot be read safely, or its layout is not known.
    """
    file = _file(path)
    concepts = _read(file)
    pair = _pair(file)
    if pair is None:
        return concepts
    parts = [concept for file in pair for concept in _read(file)]
    alike = {(part.placeholder, part.num_vectors, *part.vectors) for part in parts}
    widths = {len(vectors[0]) for part in parts for vectors in part.vectors.values()}  # SDXL's encoders differ
    if len(parts) != 2 or len(alike) != 1 or list(parts[0].vectors) != ["text_encoder"] or len(widths) != 2:
        return concepts
    first, second = parts
    logger.info("%s and %s are read as one concept of two encoders", *pair)
    both = {"text_encoder": first.vectors["text_encoder"], "text_encoder_2": second.vectors["text_encoder"]}
    return [Concept(first.placeholder, both, first.metadata)]


def _file(path: epath.PathLike) -> epath.Path:
    """What is to be opened: the file itself, or the one in a run folder or in a repository of the concepts library."""
    file = locate(path)
    if is_hub_id(str(path)) and file.suffix.lower() not in READABLE and not file.exists():
        file = epath.Path(resolve_concept(str(path)))
    if not file.is_dir():
        return file
    inside = next((file / name for name in _OF_A_RUN if (file / name).exists()), None)
    if inside is None:
        raise UserError(f"{path} is a folder without {_OF_A_RUN[0]}: name an embedding file or the folder of a run")
    return inside


def _pair(file: epath.Path) -> tuple[epath.Path, epath.Path] | None:
    """The two files of diffusers' SDXL script, if this is one of them and both are there."""
    first = file.parent / file.name.replace("learned_embeds_2", "learned_embeds", 1)
    second = file.parent / first.name.replace("learned_embeds", "learned_embeds_2", 1)
    return (first, second) if first != second and first.exists() and second.exists() else None


def _read(file: epath.Path) -> list[Concept]:
    """The concepts of one file."""
    if not file.exists():
        raise UserError(f"there is no embedding file {file}")
    try:
        content = _open(file)
        found = find(content)
        own_word = content.metadata.get("placeholder") if len(found) == 1 else None
        return [_concept(own_word, one, content.metadata, file.stem) for one in found]
    except UserError as error:
        raise UserError(f"{file} {error}") from error


def _open(file: epath.Path) -> Content:
    """The entries of a file of any container, told by its first bytes, or by its name where those say nothing."""
    with file.open("rb") as stream:
        start = stream.read(16)
    if start.startswith(b"\x93NUMPY"):
        raise UserError("is a pickled array of NumPy, which cannot be read safely: get it as safetensors")
    for container in (png, safetensors, pickled):  # a header of 128 bytes begins like a pickle
        if container.looks_like(start):
            return container.read(file)
    if file.suffix.lower() not in READABLE:
        raise UserError(f"is no embedding file: those end in {', '.join(READABLE)}")
    return READABLE[file.suffix.lower()].read(file)


def _concept(own_word: str | None, found: Found, metadata: Mapping[str, str], stem: str) -> Concept:
    """A word of a layout with its vectors read."""
    word, arrays = found
    word = own_word or word or metadata.get("token") or metadata.get("name") or stem
    if not is_word(word):
        raise UserError(f"calls its concept {show(word)!r}: that is no word for a prompt")
    values: dict[str, Array | np.ndarray] = {encoder: vectors(stored, encoder) for encoder, stored in arrays.items()}
    counts = {name: len(array) for name, array in values.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"holds as many vectors as differ by encoder ({counts}): it is damaged")
    return Concept(word, values, dict(metadata))
