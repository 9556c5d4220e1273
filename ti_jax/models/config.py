"""Reading the `config.json` of a diffusers or transformers model, strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from ti_jax.errors import UserError

Config = TypeVar("Config")


def read_config(kind: type[Config], values: Mapping[str, Any], *, neutral: Mapping[str, Any], what: str) -> Config:
    """A config dataclass from a JSON object.

    Args:
        kind: a frozen dataclass; its fields are the keys that are implemented, its defaults the reference's.
        values: the JSON object. Keys beginning with `_` are ignored; lists become tuples.
        neutral: keys that are not implemented, with the value at which they change nothing. A tuple holds several.
        what: names the file in messages.

    Returns:
        the config; keys that are missing take the defaults.

    Raises:
        UserError: naming every key that is neither implemented nor neutral.
    """
    implemented = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    known: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in values.items():
        if key.startswith("_"):
            continue
        if key in implemented:
            known[key] = tuple(value) if isinstance(value, list) else value
        elif key not in neutral:
            problems.append(f"{key} = {value!r} is not known")
        elif not _is_neutral(value, neutral[key]):
            problems.append(f"{key} = {value!r} is not supported")
    if problems:
        raise UserError(f"{what}: {'; '.join(problems)}")
    return kind(**known)


ANY = object()
"""As a neutral value: the key never changes what the network computes here."""


def _is_neutral(value: Any, neutral: Any) -> bool:
    if neutral is ANY:
        return True
    return value in neutral if isinstance(neutral, tuple) else value == neutral
