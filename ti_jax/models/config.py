"""Reading the `config.json` of a diffusers or transformers model, strictly."""

from __future__ import annotations

import dataclasses
import types
import typing
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
        UserError: naming every key that is neither implemented nor neutral, and every value of a wrong type.
    """
    fields = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name in fields}
    known: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in values.items():
        if key.startswith("_"):
            continue
        if key in hints:
            known[key] = _as_python(value, hints[key])
            if not _is_of_type(known[key], hints[key]):
                problems.append(f"{key} = {value!r} is not a valid value")
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


def _as_python(value: Any, hint: Any) -> Any:
    """A JSON value: arrays become tuples, and whole numbers floats where those are wanted."""
    if isinstance(value, list):
        return tuple(value)
    return float(value) if hint is float and type(value) is int else value


def _is_of_type(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type: a plain class, a tuple of one, or a union of these."""
    if isinstance(hint, types.UnionType):
        return any(_is_of_type(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        element, *rest = typing.get_args(hint)
        fixed = rest and rest != [...]
        return (
            isinstance(value, tuple)
            and (not fixed or len(value) == 1 + len(rest))
            and all(_is_of_type(item, element) for item in value)
        )
    return type(value) is hint  # so that True is no number
