"""Embedding files: what other programs write is read, what they read is written.

A *container* turns a file into arrays by name (`safetensors`, `pickled`, `png`); a *layout* says which of them are
whose vectors (`layouts`). `docs/formats.md` lists them by program.
"""

from ti_jax.concepts.formats.read import read, read_all
from ti_jax.concepts.formats.write import default_format, write

__all__ = ["default_format", "read", "read_all", "write"]
