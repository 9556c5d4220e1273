"""Tensors in files, read one at a time."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # which jax brings
import numpy as np

from ti_jax.errors import UserError
from ti_jax.weights.index import read_json
from ti_jax.weights.loader import LazyTensor
from ti_jax.weights.pickles import check_pickles, harmless, is_archive


@dataclass(frozen=True)
class SafeTensor:
    """A tensor in a safetensors file."""

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Its values. They are read, not mapped: pages of a map would stay beside the parameters made of them."""
        return np.fromfile(self.path, self.dtype, math.prod(self.shape), offset=self.offset).reshape(self.shape)


@dataclass(frozen=True)
class TorchTensor:
    """A tensor in a pickled file that torch has opened, mapped into memory where the file's format allows it."""

    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return tuple(self.tensor.shape)

    def read(self) -> np.ndarray:
        """Its values; those of types that numpy lacks as float32, which holds each of them."""
        foreign = str(self.tensor.dtype).startswith(("torch.bfloat16", "torch.float8"))
        try:
            return (self.tensor.float() if foreign else self.tensor).numpy()
        except Exception as error:  # sparse, quantised, without data, ...
            raise UserError(f"a checkpoint holds a tensor that is not a plain one ({type(error).__name__})") from error


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor."""

    tensor: LazyTensor
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return (self.stop - self.start, *self.tensor.shape[1:])

    def read(self) -> np.ndarray:
        """Its values."""
        return self.tensor.read()[self.start : self.stop]


# As the format calls them, little-endian all.
_TYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a `.safetensors` file; only its header is read.

    Args:
        path: of the file.

    Returns:
        lazy tensors by name.

    Raises:
        UserError: if it is no such file, or cut off.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"), path.open("rb") as file:  # the former finds what is damaged
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        return {
            name: SafeTensor(path, 8 + size + entry["data_offsets"][0], _TYPES[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
        }
    except KeyError as error:
        raise UserError(f"{path} has tensors of type {error}: convert them to float32 or float16") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}): copy or download it again") from error


_LONGEST_PICKLE = 10**6  # operations; SDXL's takes 100,000


def open_pickled(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a `.bin`, `.pt` or `.ckpt` file, by torch with `weights_only=True`, so that no code in it runs.

    Args:
        path: of a state dict, or of a training checkpoint that has one beside what else it keeps.

    Returns:
        lazy tensors by name.

    Raises:
        UserError: if torch is not installed or refuses the file.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f'{path} is a pickled file, which torch reads: pip install "ti-jax[torch]"') from error
    try:
        check_pickles(path, most_operations=_LONGEST_PICKLE)
    except UserError as error:
        raise UserError(f"{path} {error}: give the model as safetensors") from error
    try:
        with torch.serialization.safe_globals(harmless()):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path))
        state = state.get("state_dict", state)
        return {str(name): TorchTensor(x.detach()) for name, x in state.items() if isinstance(x, torch.Tensor)}
    except Exception as error:  # torch raises what the damage happens to cause
        raise UserError(
            f"{path} cannot be read safely by torch ({type(error).__name__}): give the model as safetensors"
        ) from error


def open_weights(path: Path) -> dict[str, LazyTensor]:
    """The weights of a network, whichever way they were written.

    Args:
        path: of a safetensors or pickled file, or of the index of several.

    Returns:
        lazy tensors by name.

    Raises:
        UserError: if a file is missing or damaged.
    """
    if path.suffix == ".json":
        return _open_shards(path)
    return open_safetensors(path) if path.suffix == ".safetensors" else open_pickled(path)


def _open_shards(index: Path) -> dict[str, LazyTensor]:
    """The tensors of several files, each in the one that the index names."""
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict):
        raise UserError(f"{index} is not an index of weight files: copy or download it again")
    shards: dict[str, dict[str, LazyTensor]] = {}
    tensors: dict[str, LazyTensor] = {}
    for name, file in files.items():
        if not isinstance(file, str) or Path(file).name != file or file.endswith(".json"):
            raise UserError(f"{index} points at {file}, which is no file of weights in its folder")
        if not (index.parent / file).exists():
            raise UserError(f"{index.parent / file} is missing, which {index.name} names: copy or download it too")
        if file not in shards:
            shards[file] = open_weights(index.parent / file)
        if name not in shards[file]:
            raise UserError(f"{index} says that {name} is in {file}, which does not have it")
        tensors[name] = shards[file][name]
    return tensors
