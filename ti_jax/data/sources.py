"""Many concepts from one place: a folder of folders, a YAML file, or a data set with classes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from ti_jax.concepts.formats.read import READABLE
from ti_jax.config import ConceptSpec, concept_name
from ti_jax.data.captions import read_text
from ti_jax.data.pictures import to_rgb
from ti_jax.errors import UserError
from ti_jax.files import locate

_KEYS = {"name": "name", "token": "placeholder", "init": "initializer", "pictures": "pictures"}
_OVERRIDES = ("steps", "learning_rate", "num_vectors", "templates", "prompts")


def concepts_from_folder(
    folder: epath.PathLike, *, token: str = "<{name}>", init: str | None = None
) -> list[ConceptSpec]:
    """One concept for each folder in a folder, by name.

    Args:
        folder: holds folders of pictures; hidden ones are left out.
        token: the new words; `{name}` is the concept's name.
        init: what all start from. None: the text of `initializer.txt` in the concept's folder, or else the folder's
            name with spaces for - and _.

    Returns:
        concepts named as their folders are, with - for what a file name should not have.

    Raises:
        UserError: if there is no such folder, or none in it.
    """
    path = locate(folder)
    if not path.is_dir():
        raise UserError(f"there is no folder {path}")
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise UserError(f"{path} holds no folders: give one with a folder of pictures for each concept")
    return [
        ConceptSpec(concept_name(p.name), _token(token, concept_name(p.name)), init or _initializer(p), str(p))
        for p in folders
    ]


def concepts_from_yaml(file: epath.PathLike) -> list[ConceptSpec]:
    """The concepts that a YAML file lists.

    Args:
        file: `concepts: [{name, token, init, pictures}, ...]`; a concept may have its own `steps`, `learning_rate`,
            `num_vectors`, `templates` (a file) and `prompts`. `name` is the token's letters if it is left out. Paths
            are relative to the file.

    Returns:
        concepts in the order of the file.

    Raises:
        UserError: if the file is no such YAML; the concept and the key are named.
    """
    import yaml

    path = locate(file)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, Mapping) or set(document) != {"concepts"} or not isinstance(document["concepts"], list):
        raise UserError(f"{path} should have one key, `concepts`, with a list of {{name, token, init, pictures}}")
    return [_concept(entry, i, path) for i, entry in enumerate(document["concepts"], start=1)]


def concepts_from_tfds(
    name: str,
    *,
    data_dir: str | None = None,
    split: str = "train",
    per_class: int = 5,
    token: str = "<{name}>",
    init: str | None = None,
    image: str = "image",
    label: str = "label",
) -> list[ConceptSpec]:
    """One concept for each class of a data set of tensorflow-datasets, read without TensorFlow.

    Args:
        name: of the data set, which has been prepared as ArrayRecord.
        data_dir: where; None for the usual place.
        split: which part, such as `train`.
        per_class: pictures of each class: the first in the order of the set.
        token: the new words; `{name}` is the concept's name.
        init: what all start from; the label's words if None.
        image: the feature with the picture.
        label: the feature with the class; what has none is left out.

    Returns:
        concepts named as the labels are; their pictures are decoded when they are asked for.

    Raises:
        UserError: if the extra is not installed, no picture has a label, or there is no such set in that format; it
            names the command that makes it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError("data sets need tensorflow-datasets: pip install 'ti-jax[data]'") from error
    if per_class < 1:
        raise UserError(f"--per-class {per_class} leaves no pictures: give 1 or more")
    where = f" --data_dir={data_dir}" if data_dir else ""
    try:
        builder: Any = tfds.builder(name, data_dir=data_dir)
        source = builder.as_data_source(split=split, decoders={image: tfds.decode.SkipDecoding()})
        features: Any = builder.info.features
        names = features[label].names
    except Exception as error:  # what tfds raises differs from case to case
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the data set {name} cannot be read ({reason}): prepare it once with "
            f"`tfds build {name} --file_format=array_record{where}`, which may need tensorflow"
        ) from error
    places: dict[int, list[int]] = {}
    for i, record in enumerate(source):
        if record[label] >= 0:  # -1 where it is kept secret, as in test splits
            places.setdefault(int(record[label]), []).append(i)
    if not places:
        raise UserError(f"no picture in {split} of {name} has a label: choose another --split")
    pictures = {kind: _Records(source, found[:per_class], image) for kind, found in sorted(places.items())}
    return [
        ConceptSpec(
            concept_name(names[kind]),
            _token(token, concept_name(names[kind])),
            init or _words(names[kind]),
            records,
        )
        for kind, records in pictures.items()
    ]


class _Records(Sequence[UInt8[np.ndarray, "h w 3"]]):
    """Pictures of a data set, decoded when they are asked for."""

    def __init__(self, source: Any, indices: list[int], image: str) -> None:
        self._source, self._indices, self._image = source, indices, image

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, i: Any) -> Any:
        import io

        from PIL import Image

        encoded = self._source[self._indices[i]][self._image]
        with Image.open(io.BytesIO(encoded)) as picture:
            return np.asarray(to_rgb(picture))

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


def _concept(entry: Any, number: int, file: epath.Path) -> ConceptSpec:
    where = f"concept {number} of {file}"
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} is not a mapping with name, token, init and pictures")
    for key in entry:
        if key not in _KEYS and key not in _OVERRIDES:
            near = difflib.get_close_matches(str(key), [*_KEYS, *_OVERRIDES], n=1)
            raise UserError(f"{where} has an unknown key {key!r}{f': did you mean {near[0]}?' if near else ''}")
    missing = [key for key in ("token", "init", "pictures") if not entry.get(key)]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}")
    values: dict[str, Any] = {_KEYS.get(str(key), str(key)): value for key, value in entry.items()}
    values.setdefault("name", concept_name(str(entry["token"])))
    values["pictures"] = _relative(values["pictures"], file)
    if isinstance(values.get("initializer"), str) and _names_vectors(file.parent, values["initializer"]):
        values["initializer"] = str(file.parent / values["initializer"])
    if isinstance(values.get("templates"), str) and (file.parent / values["templates"]).is_file():
        values["templates"] = str(file.parent / values["templates"])
    if isinstance(values.get("learning_rate"), str):  # YAML takes 1e-2 for a word
        values["learning_rate"] = _number(values["learning_rate"])
    for key, kind in _TYPES.items():
        if values.get(key) is not None and not isinstance(values[key], kind):
            raise UserError(f"{where}: {key} cannot be {values[key]!r}")
    try:
        return ConceptSpec(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


_TYPES: dict[str, Any] = {
    "name": str,
    "placeholder": str,
    "initializer": str,
    "steps": int,
    "learning_rate": int | float,
    "num_vectors": int,
    "templates": str,
    "prompts": str,
}
assert {*_KEYS.values(), *_OVERRIDES} == {field.name for field in dataclasses.fields(ConceptSpec)}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _relative(pictures: Any, file: epath.Path) -> Any:
    """Pictures by paths from the YAML file's folder."""
    if isinstance(pictures, list):
        return [_relative(picture, file) for picture in pictures]
    text = str(pictures)
    return text if text.startswith("bundled:") or "://" in text else str(file.parent / text)


def _names_vectors(folder: epath.Path, text: str) -> bool:
    """Whether a text names an embedding file, or a run folder in another: a word stays one beside what is called so."""
    path = folder / text
    return (path.suffix.lower() in READABLE and path.is_file()) or ("/" in text and path.is_dir())


def _token(pattern: str, name: str) -> str:
    if "{name}" not in pattern:
        raise UserError(f"the token {pattern!r} is the same for all concepts: put {{name}} into it, as in '<{{name}}>'")
    return pattern.replace("{name}", name)


def _initializer(folder: epath.Path) -> str:
    file = folder / "initializer.txt"
    return read_text(file).strip() if file.is_file() else _words(folder.name)


def _words(name: str) -> str:
    return " ".join(name.replace("-", " ").replace("_", " ").split())
