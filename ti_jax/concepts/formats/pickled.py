"""`.pt` and `.bin`: pickled files, opened by torch with `weights_only=True`, so that no code in them runs.

That alone does not bound memory: a compressed archive may grow without end, a pickle may nest objects until the
interpreter overflows, and an array of one number may be declared as a view of any shape. The first two are refused
here; shapes are checked before an array is made (`content.vectors`).
"""

from __future__ import annotations

import functools
import io
import itertools
import pickletools
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from ti_jax.concepts.formats.content import Content, Stored, with_scalars
from ti_jax.errors import UserError

LARGEST = 32 * 2**20  # bytes of a file; an embedding has kilobytes
_LONGEST_PICKLE = 50_000  # operations; a word takes about fifty
_PICKLES_OF_OLD_FILES = 5  # before torch 1.6: magic number, version, system, content, keys of the arrays that follow
_ZIP = b"PK\x03\x04"


def looks_like(start: bytes) -> bool:
    """Whether the first bytes of a file are of torch's formats, of today's or of before 1.6."""
    return start.startswith((_ZIP, b"\x80"))


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
        with path.open("rb") as stream:
            zipped = stream.read(4) == _ZIP
        _check_archive(path) if zipped else _check_pickles(path.read_bytes(), _PICKLES_OF_OLD_FILES)
        try:
            # The official code saves its vectors in a ParameterDict, which holds no code either.
            with torch.serialization.safe_globals([torch.nn.ParameterDict]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Mapped into memory an array cannot be larger than the file.
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
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
    """A path that torch can map into memory."""
    if "://" not in str(file):
        yield Path(file)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copy.write_bytes(file.read_bytes())
        yield copy


def _check_archive(path: Path) -> None:
    """Refuses archives that grow when they are read; torch never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise UserError("cannot be read safely: it is compressed, which torch's files never are")
            if sum(member.file_size for member in members) > LARGEST:
                raise UserError("cannot be read safely: it grows beyond any embedding when it is read")
            pickles = [archive.read(member) for member in members if member.filename.endswith(".pkl")]
    except UserError:
        raise
    except Exception as error:  # zipfile raises what the damage happens to cause
        raise UserError(f"cannot be read safely: its archive is damaged ({type(error).__name__})") from error
    for data in pickles:
        _check_pickles(data, 1)


def _check_pickles(data: bytes, count: int) -> None:
    """Refuses pickles, one after another at the start of the data, that do more than any embedding needs."""
    stream = io.BytesIO(data)
    try:
        operations = itertools.chain.from_iterable(pickletools.genops(stream) for _ in range(count))  # parsed, not run
        length = sum(1 for _ in itertools.islice(operations, _LONGEST_PICKLE))
    except Exception as error:  # pickletools raises what the damage happens to cause
        raise UserError(f"cannot be read safely: its pickle is damaged ({type(error).__name__})") from error
    if length == _LONGEST_PICKLE:
        raise UserError("cannot be read safely: it does more than any embedding needs")


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
