"""`--config FILE.py`: settings that a Python file gives with its `get_config()`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ti_jax.errors import UserError


def read_config(file: str, wanted: type) -> Any:
    """What `get_config()` of a Python file returns.

    Args:
        file: its path; the file is executed.
        wanted: the type that the verb takes: `InversionConfig`, or a dictionary of options.

    Returns:
        a value of that type.

    Raises:
        UserError: if there is no such file, it fails, or it gives something else.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"there is no configuration file {file}")
    spec = importlib.util.spec_from_file_location("ti_jax_user_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        config = None if get_config is None else get_config()
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:
        reason = str(error).splitlines() or [""]
        raise UserError(f"{file} fails with {type(error).__name__}: {reason[0]}") from error
    if get_config is None:
        raise UserError(f"{file} defines no get_config() that returns {_a(wanted)}")
    if not isinstance(config, wanted):
        raise UserError(f"get_config() of {file} returns {_a(type(config))}, where {_a(wanted)} is wanted")
    return config


def _a(kind: type) -> str:
    return f"an {kind.__name__}" if kind.__name__[0] in "aeiouAEIOU" else f"a {kind.__name__}"


def as_options(values: Mapping[str, Any]) -> list[str]:
    """A dictionary as options of the command line, to stand before the user's own.

    Args:
        values: by the option's name, with `_` or `-`; a list gives the option several times, None leaves it out.

    Returns:
        arguments such as `--steps 30`.
    """
    arguments: list[str] = []
    for name, value in values.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            several = isinstance(value, Sequence) and not isinstance(value, str)
            for item in value if several else [value]:
                arguments += [f"--{option}", str(item)]
    return arguments
