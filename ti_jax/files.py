"""Writing files so that a reader, or a killed process, never meets half of one."""

from __future__ import annotations

import uuid

from etils import epath


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes a file under another name and renames it when it is whole.

    Object stores show an object once it is whole, and rename by copying: there it is written at once.

    Args:
        path: local or remote; missing parent folders are made.
        data: the file's content.
    """
    target = epath.Path(path)
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
