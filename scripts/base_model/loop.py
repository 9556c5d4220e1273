"""The loop of a training run: resumes, logs, validates, saves."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from state import TrainState, load_state, save_state

from ti_jax.compilation import jit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """What is trained, and how.

    Args:
        name: of the stage; its files are called so.
        steps: in all.
        start: gives the state before the first step.
        batches: gives the batches from a step on, each a dictionary of arrays with examples first.
        step: (state, batch, key) to (state, losses); pure, it is compiled.
        validate: numbers of a state; also writes samples into the folder it is given.
    """

    name: str
    steps: int
    start: Callable[[], TrainState]
    batches: Callable[[int], Iterator[dict[str, Any]]]
    step: Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, dict[str, jax.Array]]]
    validate: Callable[[TrainState, Path], dict[str, float]]


@dataclass(frozen=True)
class Rhythm:
    """How often things are done, in seconds, and how long the run may go on."""

    log: float = 60.0
    save: float = 180.0
    validate: float = 900.0
    stop_after: float = float("inf")

    @classmethod
    def every(cls, seconds: float, *, stop_after: float) -> Rhythm:
        """Measures every so many seconds, the state saved 5 times as often, and losses written 15 times."""
        return cls(seconds / 15, seconds / 5, seconds, stop_after)


def train(stage: Stage, folder: Path, rhythm: Rhythm, *, seed: int = 0) -> TrainState:
    """Runs a stage to its end, or until its time is up.

    It goes on from `folder/NAME.state` if there is one, exactly as if it had not stopped: batches and random numbers
    belong to the number of the step.

    Args:
        stage: what to train.
        folder: for the state and for `NAME.jsonl`, one line of losses a minute and one of measures a validation.
        rhythm: intervals.
        seed: of the random numbers.

    Returns:
        the last state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, state, facts = folder / f"{stage.name}.state", stage.start(), {"hours": 0.0}
    if path.exists():
        state, facts = load_state(path, state)
    first, hours_before, began = int(state.step), float(facts["hours"]), time.monotonic()
    replicated, by_example = shardings()
    leaves, structure = jax.tree.flatten(jax.device_put(state, replicated))

    # Networks are taken apart and put together in Python: at every call, that would take as long as a step on a GPU.
    def step(leaves: list[jax.Array], *others: Any) -> tuple[list[jax.Array], dict[str, jax.Array]]:
        state, losses = stage.step(jax.tree.unflatten(structure, leaves), *others)
        return jax.tree.leaves(state), losses

    compiled, key = jit(step, donate_argnums=0), jax.random.key(seed)
    clock = _Clock(began)
    losses: list[dict[str, jax.Array]] = []

    def hours() -> float:
        return hours_before + (time.monotonic() - began) / 3600

    def now() -> TrainState:
        return jax.tree.unflatten(structure, leaves)

    def log(kind: str, values: dict[str, float]) -> None:
        line = {"kind": kind, "step": int(now().step), "hours": round(hours(), 4), **values}
        with (folder / f"{stage.name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        logger.info("%s %s", stage.name, line)

    def save() -> None:
        save_state(path, now(), {"hours": hours()})

    numbers = range(first, stage.steps if rhythm.stop_after > 0 else first)
    for number, batch in zip(numbers, stage.batches(first), strict=False):
        leaves, loss = compiled(leaves, jax.device_put(batch, by_example), jax.random.fold_in(key, number))
        losses.append(loss)
        if clock.is_due("log", rhythm.log):
            log("train", {name: float(np.mean([float(loss[name]) for loss in losses])) for name in losses[0]})
            losses = []
        if clock.is_due("save", rhythm.save):
            save()
        if clock.is_due("validate", rhythm.validate):
            log("validate", stage.validate(now(), folder))
        if time.monotonic() - began > rhythm.stop_after:
            break
    if numbers:
        save()
    log("validate", stage.validate(now(), folder))
    return now()


class _Clock:
    """Tells when an interval has passed since it last did."""

    def __init__(self, now: float) -> None:
        self._now, self._last = now, {}

    def is_due(self, name: str, interval: float) -> bool:
        now = time.monotonic()
        due = now - self._last.get(name, self._now) >= interval
        if due:
            self._last[name] = now
        return due


def shardings() -> tuple[NamedSharding, NamedSharding]:
    """For parameters, on every device; and for batches, whose examples are spread over the devices."""
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


def warmup_constant_decay(peak: float, steps: int, *, warmup: int, decay: float) -> Callable[[Any], Any]:
    """A learning rate that rises over `warmup` steps, stays, and falls to zero over the last share `decay`."""

    def rate(count: Any) -> Any:
        rise = (count + 1) / warmup
        fall = (steps - count) / (decay * steps)
        return peak * jax.numpy.clip(jax.numpy.minimum(rise, fall), 0.0, 1.0)

    return rate
