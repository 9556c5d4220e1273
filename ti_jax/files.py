"""Finding files, and writing them so that a reader, or a killed process, never meets half of one."""

from __future__ import annotations

import os
import uuid

from etils import epath

from ti_jax.errors import UserError


def locate(path: epath.PathLike) -> epath.Path:
    """What a user names, whether it is there or not.

    Args:
        path: local or remote; `~` is the user's home.

    Returns:
        a path that can be asked for more.

    Raises:
        UserError: if that kind of storage is not known, or the package for it is missing.
    """
    try:
        found = epath.Path(path).expanduser()
        found.exists()
    except KeyError as error:  # which is the beginning of an address that epath does not know
        raise UserError(f"{path} cannot be reached where it is: copy or download it first") from error
    except ImportError as error:  # which names the driver
        extra = ": pip install 'ti-jax[gcs]'" if str(path).startswith("gs://") else ""
        raise UserError(f"{path} cannot be reached ({error}){extra}") from error
    return found


def check_folder(path: epath.Path) -> None:
    """Refuses a local folder that could not be made or written in.

    Args:
        path: of the folder, whether it is there or not.

    Raises:
        UserError: if it, or what it would be in, is a file or not to be written in.
    """
    if "://" in str(path):
        return
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise UserError(f"{nearest} is a file: choose a folder as --output")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"{nearest} cannot be written in: choose another --output")


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes a file under another name and renames it when it is whole.

    Object stores show an object once it is whole, and rename by copying: there it is written at once.

    Args:
        path: local or remote; `~` is the user's home, and missing parent folders are made.
        data: the file's content.
    """
    target = epath.Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    if "://" in str(target):
        target.write_bytes(data)
        return
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"
    try:
        partial.write_bytes(data)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: epath.PathLike, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())
