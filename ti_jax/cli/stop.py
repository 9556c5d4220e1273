"""Ending a run in order when a signal asks for it."""

from __future__ import annotations

import logging
import signal
from typing import Any


class Stopped(Exception):
    """A signal ended the run after it had saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


class Stop:
    """Turns SIGTERM and the first Ctrl-C into an orderly stop after the current chunk; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self) -> bool:
        return self.number is not None

    def _handle(self, number: int, _frame: Any) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.getLogger(__name__).warning("stopping after this chunk of steps; the run will be saved")

    def __enter__(self) -> Stop:
        self._before = {n: signal.signal(n, self._handle) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> None:
        from ti_jax.inversion.result import Interrupted

        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Interrupted):
            assert self.number is not None
            raise Stopped(f"{error}; go on with --resume", self.number) from error
