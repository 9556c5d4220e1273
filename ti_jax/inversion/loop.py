"""The loop around the compiled step: concepts from a queue into slots, and out of them as they finish."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import jax
from etils import epath

from ti_jax.errors import UserError
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.job import Job
from ti_jax.inversion.result import Failure, Interrupted, QueueProgress, Result
from ti_jax.inversion.slots import Occupant, Saved, add_slots

if TYPE_CHECKING:
    from ti_jax.inversion.checkpoint import Checkpoints

logger = logging.getLogger(__name__)


class Loop:
    """Keeps slots busy.

    Args:
        engine: the slots.
        queue: concepts ready to begin, or what was wrong with one.
        total: how many there are.
        checkpoints: where the state of all slots is saved; None for nowhere.
        waiting: states of concepts, which stay in the checkpoints until a concept of their name has a slot.
        profile: a local folder to record the second chunk in; None for no record.
        on_progress: called after each chunk of steps.
        should_stop: asked after each chunk; if true, everything is saved and `Interrupted` raised.
    """

    def __init__(
        self,
        engine: Engine,
        queue: Iterator[Job | Failure],
        *,
        total: int = 1,
        checkpoints: Checkpoints | None = None,
        waiting: Iterable[Saved] = (),
        profile: epath.Path | None = None,
        on_progress: Callable[[QueueProgress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self._engine, self._queue, self._total, self._checkpoints = engine, queue, total, checkpoints
        self._waiting = list(waiting)
        self._on_progress, self._should_stop = on_progress, should_stop
        self._jobs: list[Job | None] = [None] * engine.slots
        self._clock = (checkpoints and checkpoints.latest_step) or 0
        self._chunks = self._slot_steps = self._steps_taken = self._finished = self._failed = 0
        self._profile = profile

    def run(self) -> Iterator[Result | Failure]:
        """Results, and what went wrong, in the order in which they come.

        Raises:
            Interrupted: if `should_stop` said so; the state is saved.
        """
        while True:
            yield from self._fill()
            jobs = self._occupied()
            if not jobs:
                if self._profile is not None and self._chunks == 1:
                    logger.warning("no chunk was recorded, since the first compiles: ask for --evaluate-every less")
                return
            if not all(job.done for job in jobs.values()):
                self._advance(jobs)
            yield from self._drop_failed()
            jobs = self._occupied()
            done = [slot for slot, job in jobs.items() if job.done]
            self._report(jobs)
            stopping = self._should_stop is not None and self._should_stop()
            interval = self._engine.config.checkpoint_every
            if stopping or self._clock % interval == 0 or (jobs and len(done) == len(jobs)):
                self._checkpoint(jobs)
            if stopping:
                where = ", ".join(
                    f"{job.name} at step {job.history.steps} of {job.total_steps}" for job in jobs.values()
                )
                raise Interrupted(f"stopped with {where or 'nothing under way'}")
            for slot in done:
                yield self._finish(slot)

    def _occupied(self) -> dict[int, Job]:
        return {slot: job for slot, job in enumerate(self._jobs) if job is not None}

    def _fill(self) -> Iterator[Failure]:
        """Puts the next concepts of the queue into the empty slots."""
        for slot in range(len(self._jobs)):
            while self._jobs[slot] is None:
                job = next(self._queue, None)
                if job is None:
                    return
                if isinstance(job, Job):
                    try:
                        self._engine.put(slot, job.prepared, job.state)
                    except UserError as error:
                        job = Failure(job.prepared.spec, str(error))
                    else:
                        job.began = time.perf_counter()
                        self._jobs[slot] = job
                        self._waiting = [saved for saved in self._waiting if saved.name != job.name]
                        continue
                self._failed += 1
                yield job

    def _advance(self, jobs: dict[int, Job]) -> None:
        """One dispatch, which ends where something has to be done for a concept or for all."""
        config = self._engine.config
        ends = [job.steps_to_next_event() for job in jobs.values() if not job.done]
        steps = min(config.evaluate_every, config.checkpoint_every - self._clock % config.checkpoint_every, *ends)
        recorded = self._profile is not None and self._chunks == 1
        with jax.profiler.trace(str(self._profile)) if recorded else contextlib.nullcontext():
            report = self._engine.advance(steps)
        self._chunks += 1
        self._clock += steps
        self._slot_steps += steps * len(self._jobs)
        vectors = self._engine.vectors()
        for slot, job in jobs.items():
            before = job.history.steps
            job.record(report, slot)
            self._steps_taken += job.history.steps - before
            own = {name: rows[slot, : job.num_vectors] for name, rows in vectors.items()}
            job.diagnose(own)
            if job.history.steps > before:
                job.save_if_due(own)

    def _drop_failed(self) -> Iterator[Failure]:
        """Ends the concepts whose loss was not finite, before a checkpoint could hold them."""
        for slot, job in self._occupied().items():
            if job.failed_step >= 0:
                job.write_metrics()
                self._release(slot)
                self._failed += 1
                yield Failure(
                    job.prepared.spec,
                    f"the loss or its gradient is not finite at step {job.failed_step}: begin anew with a lower "
                    "--learning-rate (in a YAML file, its own), --optimizer.max-grad-norm 1, or float32",
                )

    def _finish(self, slot: int) -> Result:
        job = self._jobs[slot]
        assert job is not None
        result = job.finish(self._engine.read(slot, job.num_vectors))
        self._release(slot)
        self._finished += 1
        return result

    def _release(self, slot: int) -> None:
        self._engine.clear(slot)
        self._jobs[slot] = None

    def _checkpoint(self, jobs: dict[int, Job]) -> None:
        """Measurements first: those past the newest checkpoint are cut off on resume, missing ones could not be."""
        if self._checkpoints is None:
            return
        for job in jobs.values():
            job.write_metrics()
        occupants = {slot: Occupant(job.name, job.num_vectors, job.prepared.fingerprint) for slot, job in jobs.items()}
        occupants |= {len(self._jobs) + i: saved.occupant for i, saved in enumerate(self._waiting)}
        state = add_slots(self._engine.snapshot(), [saved.state for saved in self._waiting])
        self._checkpoints.save(self._clock, state, occupants)

    def _report(self, jobs: dict[int, Job]) -> None:
        if self._on_progress is None:
            return
        slots = [jobs[slot].progress() if slot in jobs else None for slot in range(len(self._jobs))]
        idle = 1 - self._steps_taken / self._slot_steps if self._slot_steps else 0.0
        self._on_progress(QueueProgress(slots, self._total, self._finished, self._failed, self._steps_taken, idle))
