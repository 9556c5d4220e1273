"""Tensors in files, read one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ti_jax.errors import UserError
from ti_jax.weights.index import read_json
from ti_jax.weights.loader import LazyTensor
from ti_jax.weights.pickles import check_pickles, is_archive


@dataclass(frozen=True)
class SafeTensor:
    """A tensor in an open safetensors file."""

    file: Any
    name: str
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions, from the file's header."""
        return tuple(self.file.get_slice(self.name).get_shape())

    def read(self) -> np.ndarray:
        """Its values."""
        return self.file.get_tensor(self.name)


@dataclass(frozen=True)
class TorchTensor:
    """A tensor in a pickled file that torch has opened, mapped into memory where the file's format allows it."""

    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return tuple(self.tensor.shape)

    def read(self) -> np.ndarray:
        """Its values; bfloat16, which numpy lacks, as float32, which holds each of them."""
        try:
            return (self.tensor.float() if str(self.tensor.dtype) == "torch.bfloat16" else self.tensor).numpy()
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
        file = safe_open(path, framework="numpy")  # with bfloat16 from ml_dtypes, which jax brings
        return {name: SafeTensor(file, name, path) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}): copy or download it again") from error


class _Nothing:
    """Stands for a class that a checkpoint names and nobody needs."""


_LONGEST_PICKLE = 10**6  # operations; SDXL's takes 100,000
# The first Stable Diffusion checkpoints keep the state of this beside the weights, under the class itself as a key.
_NAMED_IN_CHECKPOINTS = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",)


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
        with torch.serialization.safe_globals([(_Nothing, name) for name in _NAMED_IN_CHECKPOINTS]):
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
