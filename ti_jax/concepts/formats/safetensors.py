"""`.safetensors`: eight bytes of length, a header in JSON, and the arrays' bytes.

The format is so small that it is read and written here: only what is needed is read, also from remote files and from
models of many gigabytes, and the same concept gives the same bytes, where the library's writer shuffles the metadata.
Source: the section "Format" of the README of huggingface/safetensors.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from ti_jax.concepts.formats.content import Content, Stored, show
from ti_jax.errors import UserError

_FLOATS = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": jnp.dtype("bfloat16")}
_LONGEST_HEADER = 8 * 2**20  # bytes; those of large models have less than one million


def looks_like(start: bytes) -> bool:
    """Whether the first bytes of a file are of this format."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def read(file: epath.Path) -> Content:
    """The arrays and the metadata of a file; only its header is read.

    Raises:
        UserError: if it is no such file, or cut off. The message goes on from "FILE ".
    """
    size = file.stat().length
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError("it is cut off or of another format")
            header = json.loads(stream.read(length))
        metadata = header.pop("__metadata__", None) or {}
        entries = {name: _entry(file, name, entry, 8 + length, size) for name, entry in header.items()}
        metadata = {key: value for key, value in metadata.items() if isinstance(value, str)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot be read as safetensors ({_reason(error)}): copy or download it again") from error
    return Content(entries, metadata)


def encode(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A file's bytes, the same every time.

    Args:
        tensors: float32.
        metadata: any strings.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    data = b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values, "<f4").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _entry(file: epath.Path, name: str, entry: Mapping[str, Any], start: int, size: int) -> Stored:
    """One array of the header, checked against the file's size."""
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, first, last]
    if not all(type(number) is int and number >= 0 for number in numbers) or not first <= last <= size - start:
        raise ValueError(f"{show(name)} is not within the file")
    kind = _FLOATS.get(dtype)
    if kind is not None and last - first != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{show(name)} has {last - first} bytes for the shape {shape[:8]}")
    load = functools.partial(_load, file, start + first, last - first, shape, kind)
    return Stored(tuple(shape), str(dtype), kind is not None, load)


def _load(file: epath.Path, position: int, count: int, shape: list[int], kind: np.dtype | None) -> np.ndarray:
    with file.open("rb") as stream:
        stream.seek(position)
        return np.frombuffer(stream.read(count), kind).reshape(shape)


def _reason(error: Exception) -> str:
    return str(error)[:200] if type(error) is ValueError else f"its header is damaged: {type(error).__name__}"
