"""Tensors in files, read one at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ti_jax.errors import UserError
from ti_jax.weights.loader import LazyTensor


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
class HeldTensor:
    """A tensor that is in memory already, since its file cannot be read in parts."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return self.values.shape

    def read(self) -> np.ndarray:
        """Its values."""
        return self.values


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
        file = safe_open(path, framework="numpy")
        return {name: SafeTensor(file, name, path) for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}): download or copy it again") from error


def open_pickled(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a `.bin` or `.pt` state dict, by torch with `weights_only=True`, so that no code in it runs.

    Args:
        path: of the file.

    Returns:
        tensors by name, all in memory.

    Raises:
        UserError: if torch is not installed or refuses the file.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f'{path} is a pickled file, which torch reads: pip install "ti-jax[torch]"') from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read safely by torch ({type(error).__name__})") from error
    # numpy has no bfloat16; float32 holds each of its values.
    return {name: HeldTensor((t.float() if t.dtype == torch.bfloat16 else t).numpy()) for name, t in state.items()}


def open_weights(folder: Path, stem: str, *, variant: str | None) -> dict[str, LazyTensor]:
    """The weights of one network in a diffusers folder, whichever way they were written.

    Args:
        folder: of the network.
        stem: of the file's name: `model` or `diffusion_pytorch_model`.
        variant: such as `fp16`; plain files are taken where it is None.

    Returns:
        lazy tensors by name.

    Raises:
        UserError: if there are none; it names what was looked for and what there is.
    """
    suffix = "" if variant is None else f".{variant}"
    single, index = (folder / f"{stem}{suffix}.{end}" for end in ("safetensors", "safetensors.index.json"))
    # Shards with a variant: `model.safetensors.index.fp16.json`, as diffusers writes them.
    for candidate in (index, folder / f"{stem}.safetensors.index{suffix}.json"):
        if candidate.exists():
            return _open_shards(candidate)
    if single.exists():
        return open_safetensors(single)
    for old in (folder / f"{stem}{suffix}.bin", folder / f"pytorch_{stem}{suffix}.bin"):
        if old.exists():
            return open_pickled(old)
    there = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
    hint = " (another variant? say --variant fp16)" if variant is None and "fp16" in there else ""
    raise UserError(f"{folder} has no {single.name}: it holds {there}{hint}")


def _open_shards(index: Path) -> dict[str, LazyTensor]:
    try:
        names: Mapping[str, str] = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{index} is not an index of safetensors files: download or copy it again") from error
    shards: dict[str, dict[str, LazyTensor]] = {}
    tensors: dict[str, LazyTensor] = {}
    for name, file in names.items():
        if Path(file).name != file:
            raise UserError(f"{index} points out of its folder, at {file}")
        if file not in shards:
            shards[file] = open_safetensors(index.parent / file)
        if name not in shards[file]:
            raise UserError(f"{index} says that {name} is in {file}, which does not have it")
        tensors[name] = shards[file][name]
    return tensors
