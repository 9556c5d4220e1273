"""The `ti-jax` command: what its verbs take and say. The work is done by the functions of the Python interface.

Nothing heavy is imported before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, NoReturn, Protocol, runtime_checkable

import tyro

from ti_jax.cli.convert import Convert
from ti_jax.cli.evaluate import Evaluate
from ti_jax.cli.generate import Generate
from ti_jax.cli.inspect import Inspect
from ti_jax.cli.invert import Invert
from ti_jax.cli.invert_many import InvertMany
from ti_jax.cli.merge import Merge
from ti_jax.cli.plan import Plan
from ti_jax.cli.stop import Stopped
from ti_jax.config import InversionConfig
from ti_jax.config_file import as_options, read_config
from ti_jax.errors import UserError


@runtime_checkable
class Verb(Protocol):
    """A frozen dataclass whose fields are the options; one called `settings` takes its defaults from `--config`."""

    def run(self) -> None:
        """Does what was asked for and prints the result."""
        ...


VERBS: dict[str, type[Verb]] = {
    "invert": Invert,
    "invert-many": InvertMany,
    "generate": Generate,
    "evaluate": Evaluate,
    "convert": Convert,
    "merge": Merge,
    "plan": Plan,
    "inspect": Inspect,
}


_LESS_MEMORY = {
    "invert": "--batch-size 1 --gradient-accumulation 4, which learns what a batch of 4 does, then --remat blocks",
    "invert-many": "fewer --slots, a smaller --batch-size, or --remat blocks",
    "generate": "--batch-size 1, then a smaller --height and --width",
    "evaluate": "--batch-size 1",
}
"""What helps a verb whose device has too little."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `ti-jax`; exits with 0, 1 (failed) or 2 (wrong usage)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        _fail(f"name a verb\n\n{_overview()}", 2)
    if arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0)
    verb = arguments.pop(0)
    if verb == "--version":
        import ti_jax

        print(ti_jax.__version__)
        return
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        _fail(f"there is no verb {verb!r}{f': did you mean {near[0]}?' if near else ''}\n\n{_overview()}", 2)
    debug = "--debug" in arguments
    _log(debug)
    try:
        _parse(verb, arguments).run()
    except Stopped as stopped:
        _fail(str(stopped), stopped.status)
    except KeyboardInterrupt:
        _fail("interrupted", 128 + signal.SIGINT)
    except Exception as error:
        if debug:
            raise
        _fail(" ".join(_describe(error, verb).split()), 1)


def _log(debug: bool) -> None:
    """Messages on stderr."""
    handler = logging.StreamHandler()
    if not debug:
        # orbax logs a traceback a thread where a save fails, which is said in a line when it is raised.
        handler.addFilter(lambda record: record.name != "absl")
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[handler])
    logging.getLogger("ti_jax").setLevel(logging.DEBUG if debug else logging.INFO)


def _describe(error: Exception, verb: str) -> str:
    """What went wrong, in a line."""
    if "No space left on device" in str(error):  # orbax wraps it in errors of other types
        resume = ", then go on with --resume" if verb in ("invert", "invert-many") else ""
        return f"the disk is full: free some space{resume} ({error})"
    if "RESOURCE_EXHAUSTED" in str(error):  # jax's word for it
        return f"the device's memory does not suffice: try {_LESS_MEMORY.get(verb, 'another device')} ({error})"
    if isinstance(error, UserError | OSError):
        return str(error)
    return f"failed with {type(error).__name__}: {error} (--debug shows where)"


def _overview() -> str:
    lines = [f"  {verb:12} {(kind.__doc__ or '').splitlines()[0]}" for verb, kind in VERBS.items()]
    return "\n".join(
        [
            "usage: ti-jax VERB ...",
            "",
            "Textual Inversion in JAX. Each verb explains itself with --help.",
            "",
            *lines,
        ]
    )


def _fail(message: str, status: int) -> NoReturn:
    print(f"ti-jax: {message}", file=sys.stderr)
    sys.exit(status)


def _parse(verb: str, arguments: list[str]) -> Verb:
    """The verb with its options; `--config FILE.py` gives the defaults that other options override."""
    kind = VERBS[verb]
    config_file = _take_option(arguments, "--config")
    if _take_option(arguments, "--config") is not None:
        raise UserError("--config is there twice: a later file would not add to the first, so name one")
    if config_file is not None and "settings" in kind.__annotations__:
        kind = _with_settings(kind, read_config(config_file, InversionConfig))
    elif config_file is not None:
        arguments = [*as_options(read_config(config_file, dict)), *arguments]
    return tyro.cli(kind, prog=f"ti-jax {verb}", args=arguments)


def _with_settings(kind: type[Verb], settings: InversionConfig) -> type[Verb]:
    """A verb with other defaults."""
    return dataclasses.make_dataclass(
        kind.__name__,
        [("settings", Annotated[InversionConfig, tyro.conf.arg(name="")], field(default=settings))],
        bases=(kind,),
        namespace={"__doc__": kind.__doc__},
        frozen=True,
    )


def _take_option(arguments: list[str], name: str) -> str | None:
    """Removes `name VALUE` or `name=VALUE` from the arguments and returns the value."""
    for i, argument in enumerate(arguments):
        if argument == name:
            if i + 1 == len(arguments):
                raise UserError(f"{name} wants a file")
            value = arguments[i + 1]
            del arguments[i : i + 2]
            return value
        if argument.startswith(f"{name}="):
            del arguments[i]
            return argument.removeprefix(f"{name}=")
    return None
