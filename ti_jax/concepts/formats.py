"""Embedding files: what we write, and the layouts that others write.

Every reader of a layout takes a dictionary of tensors (and its metadata) and gives the concept's word and vectors, or
None if the layout is another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from ti_jax.concepts.concept import Concept
from ti_jax.errors import UserError
from ti_jax.files import write_bytes

Found = tuple[str | None, dict[str, np.ndarray]]
"""The word, if the layout has one, and vectors by encoder."""

# In safetensors; its reader for numpy has no bfloat16.
_TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.dtype("bfloat16")}
_LARGEST = 256 * 1024 * 1024  # bytes; an embedding is kilobytes


def write(concept: Concept, path: epath.PathLike) -> None:
    """Writes `{word: float32 [n, width]}` with string metadata, the layout that diffusers, A1111 and ComfyUI read.

    Args:
        concept: of one encoder.
        path: ends in `.safetensors`.

    Raises:
        UserError: if the ending is another, or the concept has vectors of several encoders.
    """
    if not str(path).endswith(".safetensors"):
        raise UserError(f"{path}: concepts are written as .safetensors")
    if len(concept.vectors) != 1:
        raise UserError("concepts of several text encoders cannot be written yet")
    (vectors,) = concept.vectors.values()
    metadata = {**concept.metadata, "placeholder": concept.placeholder, "format": "ti_jax"}
    write_bytes(path, _safetensors(concept.placeholder, np.asarray(vectors, np.float32), metadata))


def _safetensors(name: str, values: np.ndarray, metadata: Mapping[str, str]) -> bytes:
    """A file of one tensor; the same bytes every time, where the library's writer shuffles the metadata."""
    data = np.ascontiguousarray(values, "<f4").tobytes()
    tensor = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": dict(sorted(metadata.items())), name: tensor}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def read(path: epath.PathLike, *, token: str | None = None) -> Concept:
    """Reads an embedding file.

    Args:
        path: local or remote.
        token: the word to use; the file's own if None, or else its name.

    Returns:
        the concept, vectors in float32.

    Raises:
        UserError: if there is no such file, it cannot be read safely, or its layout is not known.
    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"there is no embedding file {file}")
    if file.is_dir():
        raise UserError(f"{file} is a folder: name the file in it, such as {file / 'learned_embeds.safetensors'}")
    if file.stat().length > _LARGEST:
        raise UserError(f"{file} is larger than any embedding: is it a model?")
    suffix = file.suffix.lower()
    if suffix == ".safetensors":
        content, metadata = _read_safetensors(file)
    elif suffix in (".pt", ".bin"):
        content, metadata = _read_pickled(file), {}
    else:
        raise UserError(f"{file} is not .safetensors, .pt or .bin")
    for layout in _LAYOUTS:
        try:
            found = layout(content)
        except UserError as error:
            raise UserError(f"{file} {error}") from None
        if found is not None:
            word, vectors = found
            word = token or metadata.get("placeholder") or word or file.stem
            return Concept(word, {name: _vectors(file, v) for name, v in vectors.items()}, metadata)
    raise UserError(f"{file} holds {', '.join(map(str, content)) or 'nothing'}: that is no embedding layout we know")


def _vectors(file: epath.Path, values: np.ndarray) -> np.ndarray:
    """float32 [n, width]; old files hold a single vector without the first axis."""
    if values.dtype.kind != "f" and values.dtype.name != "bfloat16":
        raise UserError(f"{file} holds {values.dtype} where vectors should be")
    values = np.atleast_2d(values).astype(np.float32)
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(f"{file} holds an array of shape {list(values.shape)} where vectors should be")
    if not np.isfinite(values).all():
        raise UserError(f"{file} holds vectors that are not finite")
    return values


def _read_safetensors(file: epath.Path) -> tuple[dict[str, Any], dict[str, str]]:
    from safetensors import SafetensorError, deserialize

    data = file.read_bytes()
    try:
        tensors = sorted(deserialize(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{file} cannot be read as safetensors ({error})") from error
    for name, tensor in tensors:
        if tensor["dtype"] not in _TYPES:
            raise UserError(f"{file} holds {tensor['dtype']} in {name} where vectors should be")
    content = {
        name: np.frombuffer(tensor["data"], _TYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in tensors
    }
    return content, header.get("__metadata__", {})


def _read_pickled(file: epath.Path) -> dict[str, Any]:
    """By torch with `weights_only=True`, so that no code in the file runs."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f'{file} is a pickled file, which torch reads: pip install "ti-jax[torch]"') from error
    try:
        # The official code saves its vectors in a ParameterDict, which holds no code either.
        with file.open("rb") as stream, torch.serialization.safe_globals([torch.nn.ParameterDict]):
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{file} cannot be read safely by torch ({type(error).__name__})") from error

    def to_numpy(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().float().numpy() if value.is_floating_point() else value.numpy()
        if isinstance(value, Mapping | torch.nn.ParameterDict):
            return {key: to_numpy(inner) for key, inner in value.items()}
        return value

    content = to_numpy(content)
    if isinstance(content, np.ndarray):
        return {"": content}
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}: that is no embedding layout we know")
    return content


def _a1111(content: Mapping[str, Any]) -> Found | None:
    """A1111's and the official code's `.pt`: {string_to_param: {word or *: [n, width]}, name: ...}."""
    parameters = content.get("string_to_param")
    if not isinstance(parameters, Mapping) or not parameters:
        return None
    if len(parameters) > 1:
        raise UserError(f"holds several concepts ({', '.join(map(str, parameters))}): only one can be read")
    ((word, vectors),) = parameters.items()
    if not isinstance(vectors, np.ndarray):
        return None
    name = content.get("name")
    return (name if word == "*" and isinstance(name, str) else None if word == "*" else str(word)), {
        "text_encoder": vectors
    }


def _parameters(content: Mapping[str, Any]) -> Found | None:
    """kohya's and invoke-training's `emb_params`, without a word."""
    vectors = content.get("emb_params")
    return (None, {"text_encoder": vectors}) if isinstance(vectors, np.ndarray) else None


def _one_tensor(content: Mapping[str, Any]) -> Found | None:
    """diffusers' {word: [n, width]}, and a bare tensor."""
    if len(content) != 1:
        return None
    ((word, vectors),) = content.items()
    return (word or None, {"text_encoder": vectors}) if isinstance(vectors, np.ndarray) else None


_LAYOUTS: tuple[Callable[[Mapping[str, Any]], Found | None], ...] = (_a1111, _parameters, _one_tensor)
