"""Pickled files before torch opens them.

`weights_only=True` keeps code from running, but does not bound memory: a compressed archive may grow without end, and a
pickle may nest objects until the interpreter crashes. Both are refused here, by looking at the file alone.
"""

from __future__ import annotations

import itertools
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from ti_jax.errors import UserError

_ZIP = b"PK\x03\x04"
_NAMED_BESIDE_TENSORS = (
    # The first Stable Diffusion checkpoints keep the state of this under the class itself as a key.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    # Numbers of NumPy, as learning rates and losses may be: by its versions 1 and 2.
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32")),
)
_PICKLES_OF_OLD_FILES = 5  # before torch 1.6: magic number, version, system, content, keys of the arrays that follow
_MOST_TUPLES = 50_000  # one in another, 200,000 crash the interpreter; a tensor takes four, and none is in another


def is_archive(path: Path) -> bool:
    """Whether a file is of torch 1.6 or later, and so can be mapped into memory."""
    with path.open("rb") as stream:
        return stream.read(4) == _ZIP


class _Nothing:
    """Stands for what a file names and nobody needs, whatever it is made of."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def harmless() -> list[Any]:
    """What files of training hold beside tensors, for `torch.serialization.safe_globals`: nothing comes of it."""
    return [(_Nothing, name) for name in _NAMED_BESIDE_TENSORS]


def check_pickles(path: Path, *, most_operations: int) -> None:
    """Refuses files that cost more to read than their size lets expect; nothing is unpickled.

    Args:
        path: of a file of torch.
        most_operations: that its pickle may have; a tensor takes about fifty.

    Raises:
        UserError: the message goes on from "FILE ".
    """
    try:
        if is_archive(path):
            _check_archive(path, most_operations)
        else:
            with path.open("rb") as stream:
                _check(stream, _PICKLES_OF_OLD_FILES, most_operations)
    except UserError:
        raise
    except Exception as error:  # zipfile and pickletools raise what the damage happens to cause
        raise UserError(f"cannot be read safely: it is damaged ({type(error).__name__})") from error


def _check_archive(path: Path, most_operations: int) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise UserError("cannot be read safely: it is compressed, which torch's files never are")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise UserError("cannot be read safely: it grows when it is read")
        for member in members:
            if member.filename.endswith(".pkl"):
                with archive.open(member) as stream:
                    _check(stream, 1, most_operations)


def _check(stream: Any, count: int, most_operations: int) -> None:
    """Of pickles one after another."""
    found = itertools.chain.from_iterable(pickletools.genops(stream) for _ in range(count))  # parsed, not run
    tuples = 0
    for number, (operation, _, _) in enumerate(found):
        tuples += operation.name.startswith("TUPLE")
        if number >= most_operations or tuples > _MOST_TUPLES:
            raise UserError("cannot be read safely: it does more than its arrays need")
