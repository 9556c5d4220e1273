"""A learned word: its placeholder and its vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Float


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class Concept:
    """A word that stands for learned embedding vectors.

    As a pytree its leaves are the vectors alone: another word or other metadata is the same structure, so nothing
    compiles again.
    """

    placeholder: str
    """The word in prompts, such as `<fox>`."""
    vectors: dict[str, Float[Array | np.ndarray, "n width"]]
    """By encoder (`text_encoder`); float32."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Where it comes from; kept in the file."""

    @property
    def num_vectors(self) -> int:
        """Vectors of an encoder; the same for all."""
        return next(iter(self.vectors.values())).shape[0]

    def save(self, path: epath.PathLike, *, to: str | None = None) -> None:
        """Writes the concept, whole or not at all.

        Args:
            path: ends in `.safetensors`, or in `.pt` or `.bin` with the extra `[torch]`; local or remote.
            to: the program that is to read it; see `ti_jax.concepts.formats.write`.

        Raises:
            UserError: if it ends in anything else, or the program does not read such a file.
        """
        from ti_jax.concepts.formats import write

        write(self, path, to=to)

    @classmethod
    def load(cls, path: epath.PathLike, *, token: str | None = None) -> Concept:
        """Reads an embedding file, whoever wrote it.

        Args:
            path: `.safetensors`, `.png`, `.pt`/`.bin` with the extra `[torch]`, or a run folder; local or remote.
            token: the word to use instead of the file's own; of a file with several concepts, the word of the one.

        Returns:
            the concept.

        Raises:
            UserError: if it is no embedding file that can be read safely, or holds several concepts and `token` is
                none of their words, or `token` is no word for a prompt.
        """
        from ti_jax.concepts.formats import read

        return read(path, token=token)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], _Label]:
        """Vectors as children; see `jax.tree_util.register_pytree_with_keys_class`."""
        label = _Label(self.placeholder, self.metadata)
        return ((jax.tree_util.GetAttrKey("vectors"), self.vectors),), label

    @classmethod
    def tree_unflatten(cls, label: _Label, children: tuple[Any, ...]) -> Concept:
        """The inverse of `tree_flatten_with_keys`."""
        return cls(label.placeholder, children[0], label.metadata)


@dataclass(frozen=True, eq=False)
class _Label:
    """What a concept carries that is no part of its structure: all labels are equal."""

    placeholder: str
    metadata: dict[str, str]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Label)

    def __hash__(self) -> int:
        return hash(_Label)
