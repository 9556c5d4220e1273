"""One concept on its way through a slot: the host's account of it, and what it leaves behind."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Array

import ti_jax
from ti_jax.concepts.concept import Concept
from ti_jax.config import InversionConfig, as_dict
from ti_jax.errors import UserError
from ti_jax.inversion.diagnosis import diagnose
from ti_jax.inversion.engine import ChunkReport
from ti_jax.inversion.history import History
from ti_jax.inversion.prepare import Prepared
from ti_jax.inversion.report import contact_sheet, draw, loss_curve, tile
from ti_jax.inversion.result import Progress, Result
from ti_jax.inversion.run_folder import RunFolder
from ti_jax.inversion.slots import Saved, SlotState
from ti_jax.pipeline import Pipeline

logger = logging.getLogger(__name__)


@dataclass
class Job:
    """A concept, what was measured of it, and its folder."""

    pipeline: Pipeline
    prepared: Prepared
    config: InversionConfig
    """With everything filled in, what the concept has of its own included."""
    folder: RunFolder | None = None
    """Opened already."""
    saved: Saved | None = None
    """What a checkpoint has of a concept of its name."""
    contact_sheet: bool = True
    """Whether to draw, at the end, the losses and what the word draws."""
    history: History = field(default_factory=History)
    warnings: dict[str, str] = field(default_factory=dict)
    done: bool = False
    failed_step: int = -1
    """The step whose loss was not finite."""
    state: SlotState | None = field(default=None, init=False)
    """To go on from; the first step if None."""
    began: float = field(default_factory=time.perf_counter)
    """When it took its slot."""

    def __post_init__(self) -> None:
        if self.folder is not None:
            if self.saved is not None:
                self._go_on(self.folder, self.saved)
            self.folder.write_config(as_dict(self.config), self.prepared.identity)

    def _go_on(self, folder: RunFolder, saved: Saved) -> None:
        """Takes over what was saved, if it is of this run: its folder may have been deleted or begun anew since."""
        step = int(saved.state.step)
        history = folder.read_metrics(steps=step)
        if saved.fingerprint != self.prepared.fingerprint or history.steps != step:
            logger.warning(
                "%s: the state of step %d is not of the run in %s: from its start", self.name, step, folder.path
            )
            return
        if step > self.total_steps:
            raise UserError(f"the run in {folder.path} is at step {step} already: ask for more --steps than that")
        self.state, self.history = saved.state, history
        self.done = step == self.total_steps or bool(saved.state.settled)
        logger.info("%s: resumed at step %d of %d", self.name, step, self.total_steps)
        self.diagnose({name: np.asarray(v)[: self.num_vectors] for name, v in saved.state.vectors.items()})

    @property
    def name(self) -> str:
        """Of the concept."""
        return self.prepared.spec.name

    @property
    def num_vectors(self) -> int:
        """Of the concept, without padding."""
        return len(next(iter(self.prepared.vectors.values())))

    @property
    def total_steps(self) -> int:
        """Steps that it takes at most."""
        assert self.config.steps is not None  # filled in by with_model_defaults
        return self.config.steps

    def steps_to_next_event(self) -> int:
        """Steps until something has to be done on the host: the end, or a preview."""
        step, save_every = self.history.steps, self.config.save_every
        left = self.total_steps - step
        return min(left, save_every - step % save_every) if save_every else left

    def record(self, report: ChunkReport, slot: int) -> None:
        """Takes note of what a chunk did to it."""
        self.history.append(report.log, slot)
        self.failed_step = int(report.failed_step[slot])
        self.done = self.history.steps == self.total_steps or bool(report.settled[slot])

    def diagnose(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Warns once of each thing that looks wrong.

        Args:
            vectors: by encoder, float32 [n, width], after the latest step.
        """
        norms = self.pipeline.vocabulary_norms
        for kind, message in diagnose(self.history, vectors, self.prepared.vectors, norms).items():
            if kind not in self.warnings:
                logger.warning("%s: %s", self.name, message)
                self.warnings[kind] = message

    def progress(self) -> Progress:
        """Where it is."""
        history = self.history
        recent = history.loss[-self.config.evaluate_every :]
        return Progress(
            name=self.name,
            step=history.steps,
            total_steps=self.total_steps,
            loss=float(np.mean(recent)) if recent else float("nan"),
            norm=history.norm[-1] if history.norm else float("nan"),
            fixed_loss=history.fixed_loss[max(history.fixed_loss)] if history.fixed_loss else None,
        )

    def write_metrics(self) -> None:
        """Writes what was measured so far."""
        if self.folder is not None:
            self.folder.write_metrics(self.history)

    def save_if_due(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Writes vectors and preview pictures after every `save_every` steps."""
        step, every = self.history.steps, self.config.save_every
        if self.folder is None or not every or step % every:
            return
        concept = self._concept(vectors, step)
        self.folder.save_step(concept, step)
        if prompts := self.config.preview_prompts:
            with self._going_on():
                images = draw(self.pipeline, concept, prompts, steps=self.config.preview_steps)
                tile(images, len(prompts), self.folder.path / "previews" / f"steps-{step}.png")

    def finish(self, state: SlotState) -> Result:
        """The result, written to the folder if there is one; a finished run is left as it is.

        Args:
            state: of the slot, without padding.
        """
        result = Result(
            concept=self._concept(state.vectors, int(state.step)),
            best=self._concept(state.best_vectors, int(state.best_step)),
            initial=self._concept(self.prepared.vectors, 0),
            history=self.history,
            pictures=[picture.pixels for picture in self.prepared.pictures],
            seconds=time.perf_counter() - self.began,
            warnings=list(self.warnings.values()),
            settled=bool(state.settled) and int(state.step) < self.total_steps,
        )
        self.write_metrics()  # which a checkpoint may have cut off, of a run that had ended
        if self.folder is not None:
            before = self.folder.read_result()
            if before is None or before["steps"] != result.history.steps:
                self._write(self.folder, result)
        return result

    def _write(self, folder: RunFolder, result: Result) -> None:
        folder.save(self.name, result.concept, result.best)
        if self.contact_sheet:
            loss_curve(self.history, folder.path / "loss.png")
            if prompts := self.config.preview_prompts:
                with self._going_on():
                    sheet = folder.path / "contact_sheet.png"
                    contact_sheet(self.pipeline, result, prompts, sheet, steps=self.config.preview_steps)
        folder.write_result(summary(result))

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Where pictures are drawn for which a device may have no memory; a full disk is another matter."""
        try:
            yield
        except OSError:
            raise
        except Exception as error:
            logger.warning("%s: its pictures could not be drawn (%s: %s)", self.name, type(error).__name__, error)

    def _concept(self, vectors: Mapping[str, Array | np.ndarray], step: int) -> Concept:
        spec, config = self.prepared.spec, self.config
        metadata = {
            "name": spec.name,
            "base_model": self.pipeline.source,
            "steps": str(step),
            "initializer": spec.initializer,
            "learning_rate": str(config.optimizer.learning_rate),
            "batch_size": str(config.batch_size * config.gradient_accumulation),
            "seed": str(config.seed),
            "version": ti_jax.__version__,
        }
        return Concept(spec.placeholder, {name: np.asarray(v) for name, v in vectors.items()}, metadata)


def summary(result: Result) -> dict[str, Any]:
    """How an inversion ended, as JSON values."""
    return {
        "name": result.concept.metadata["name"],
        "token": result.concept.placeholder,
        "status": "finished",
        "steps": result.history.steps,
        "stopped_early": result.settled,
        "loss": float(np.mean(result.history.loss[-100:])),
        "best_step": int(result.best.metadata["steps"]),
        "seconds": round(result.seconds, 3),
        "warnings": result.warnings,
    }
