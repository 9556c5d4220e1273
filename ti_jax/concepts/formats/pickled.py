"""`.pt` and `.bin`: pickled files, opened by torch with `weights_only=True`, so that no code in them runs.

That alone does not bound memory: `weights.pickles` refuses what grows or nests, and as an array of one number may be
declared as a view of any shape, shapes are checked before an array is made (`content.vectors`).
"""

from __future__ import annotations

import functools
import io
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from ti_jax.concepts.formats.content import Content, Stored, with_scalars
from ti_jax.errors import UserError
from ti_jax.weights.pickles import check_pickles, harmless, is_archive

LARGEST = 32 * 2**20  # bytes of a file; an embedding has kilobytes
_LONGEST_PICKLE = 50_000  # operations; a word takes about fifty


def looks_like(start: bytes) -> bool:
    """Whether the first bytes of a file are of torch's formats, of today's or of before 1.6."""
    return start.startswith((b"PK\x03\x04", b"\x80"))


def read(file: epath.Path) -> Content:
    """The arrays and other entries of a file.

    Raises:
        UserError: if torch is not installed or refuses the file. The message goes on from "FILE ".
    """
    if file.stat().length > LARGEST:
        raise UserError("is larger than any embedding: is it a model?")
    try:
        import torch
    except ImportError as error:
        raise UserError('is a pickled file, which torch reads: pip install "ti-jax[torch]"') from error
    with _local(file) as path:
        check_pickles(path, most_operations=_LONGEST_PICKLE)
        try:
            # The official code saves its vectors in a ParameterDict, which holds no code either.
            with torch.serialization.safe_globals([torch.nn.ParameterDict, *harmless()]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Mapped into memory an array cannot be larger than the file.
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path))
        except Exception as error:  # torch raises what the damage happens to cause
            reason = type(error).__name__
            raise UserError(f"cannot be read safely by torch ({reason}): get it as safetensors") from error
    if isinstance(content, torch.Tensor):
        return Content({"": _stored(content)}, {})
    if not isinstance(content, Mapping | torch.nn.ParameterDict):
        raise UserError(f"holds a {type(content).__name__}: that is no embedding layout we know")
    return with_scalars({key: _entry(value) for key, value in _items(content).items()})


def encode(content: Mapping[str, Any]) -> bytes:
    """A file's bytes.

    Args:
        content: tensors of torch, dictionaries of them, numbers and strings.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    return buffer.getvalue()


@contextmanager
def _local(file: epath.Path) -> Iterator[Path]:
    """A path that torch can map into memory, and whose ending does not make it take the file for safetensors."""
    if "://" not in str(file) and file.suffix != ".safetensors":
        yield Path(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.write_bytes(file.read_bytes())
        yield copy


def _items(content: Any) -> dict[str, Any]:
    """Named entries. A ParameterDict keeps them in `_parameters`; that of torch 1.11 has nothing else."""
    entries = content if isinstance(content, Mapping) else content.__dict__.get("_parameters")
    if not isinstance(entries, Mapping):
        return {}
    return {key: value for key, value in entries.items() if isinstance(key, str)}


def _entry(value: Any) -> Any:
    """An entry, with arrays in it one level down: deeper ones no layout has, and a file could nest them without end."""
    import torch

    if isinstance(value, Mapping | torch.nn.ParameterDict):
        return {key: _stored(inner) for key, inner in _items(value).items() if isinstance(inner, torch.Tensor)}
    return _stored(value) if isinstance(value, torch.Tensor) else value


def _stored(tensor: Any) -> Stored:
    return Stored(
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        tensor.is_floating_point(),
        functools.partial(_load, tensor),
    )


def _load(tensor: Any) -> np.ndarray:
    try:
        return tensor.detach().float().numpy()
    except Exception as error:  # sparse, quantised, without data, ...
        raise UserError(f"holds a tensor that is not a plain one ({type(error).__name__})") from error
