"""Learning one concept: the loop around the compiled step, and what it leaves behind."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

import ti_jax
from ti_jax.concepts.concept import Concept
from ti_jax.config import ConceptSpec, InversionConfig, as_dict, with_model_defaults
from ti_jax.errors import UserError
from ti_jax.inversion.diagnosis import diagnose
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.history import History
from ti_jax.inversion.prepare import Prepared, prepare
from ti_jax.inversion.report import contact_sheet, draw, loss_curve, tile
from ti_jax.inversion.result import Interrupted, Progress, Result
from ti_jax.inversion.run_folder import RunFolder
from ti_jax.pipeline import Pipeline

if TYPE_CHECKING:
    from ti_jax.inversion.checkpoint import Checkpoints

logger = logging.getLogger(__name__)


def invert(
    pipeline: Pipeline,
    pictures: Any,
    *,
    placeholder: str,
    initializer: str,
    config: InversionConfig | None = None,
    name: str | None = None,
    output: epath.PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Learns a new word from a few pictures (Gal et al. 2022, arXiv 2208.01618).

    Args:
        pipeline: the frozen model, from `ti_jax.load`.
        pictures: a folder, a list of files, `bundled:NAME`, or arrays uint8 [h, w, 3]; 3 to 5 are usual.
        placeholder: the new word, such as `<fox>`; anything that is not a word of the vocabulary.
        initializer: a word or phrase that comes close, `random`, or an embedding file to go on from.
        config: settings; the defaults are the paper's.
        name: of the concept, which also picks its random stream; the letters and digits of the placeholder if None.
        output: run folder, local or remote; nothing is written if None.
        resume: go on with the run in `output`, ending with the very same vectors; a finished run is left as it is.
        overwrite: replace the run in `output`.
        on_progress: called after each chunk of steps.
        should_stop: asked after each chunk; if true, the run saves and raises `Interrupted`.

    Returns:
        the learned concept, its history, and what it started from.

    Raises:
        UserError: for anything the user can put right: pictures, prompts, placeholder, initialiser, an output folder
            in use, a resume that would change the run, or a loss that is not finite.
        Interrupted: if `should_stop` said so.
    """
    config = with_model_defaults(config or InversionConfig(), pipeline.inversion_defaults)
    spec = ConceptSpec(name or concept_name(placeholder), placeholder, initializer, pictures)
    prepared = prepare(pipeline, spec, config)
    with contextlib.ExitStack() as stack:
        run = _Run(pipeline, prepared, config, on_progress, should_stop)
        if output is not None:
            run.open(RunFolder(output), stack, resume=resume, overwrite=overwrite)
        return run.to_the_end()


def concept_name(placeholder: str) -> str:
    """A name for files and the random stream: the placeholder without what a file name should not have."""
    return re.sub(r"[^\w.-]+", "-", placeholder).strip("-.") or "concept"


class _Run:
    """One concept in an engine of one slot, with its history and maybe a folder."""

    def __init__(
        self,
        pipeline: Pipeline,
        prepared: Prepared,
        config: InversionConfig,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        assert config.steps is not None  # filled in by with_model_defaults, as is the next
        assert config.preview_prompts is not None
        self.preview_prompts = config.preview_prompts
        self.pipeline, self.prepared, self.config = pipeline, prepared, config
        self.on_progress, self.should_stop = on_progress, should_stop
        self.total_steps = config.steps
        self.engine = Engine(pipeline, config, [prepared])
        self.vocabulary_norm = {k: float(v) for k, v in self.engine.vocabulary_norm.items()}
        self.history = History()
        self.warnings: dict[str, str] = {}
        self.folder: RunFolder | None = None
        self.checkpoints: Checkpoints | None = None

    def open(self, folder: RunFolder, stack: contextlib.ExitStack, *, resume: bool, overwrite: bool) -> None:
        """Takes the folder into use, and goes back to its newest checkpoint if there is one."""
        from ti_jax.inversion.checkpoint import Checkpoints  # slow to import, and only needed with a folder

        folder.open(resume=resume, overwrite=overwrite)
        folder.check_identity(self.prepared.identity)
        checkpoints = stack.enter_context(Checkpoints(folder.checkpoints))
        step = checkpoints.latest_step
        if step is not None:
            if step > self.total_steps:
                raise UserError(f"the run in {folder.path} is at step {step} already: ask for more --steps than that")
            self.engine.state = checkpoints.load(self.engine.state)
            self.history = folder.read_metrics(steps=step)
            logger.info("resumed at step %d of %d", step, self.total_steps)
        folder.write_config(as_dict(self.config), self.prepared.identity)
        self.folder, self.checkpoints = folder, checkpoints

    def to_the_end(self) -> Result:
        """Runs all steps that are left, and writes what is to be written."""
        began = time.perf_counter()
        if self.history.steps == 0:
            self._advance(0)
        while self.history.steps < self.total_steps:
            self._advance(self._steps_to_next_event())
            self._report()
            self._save_if_due()
            if self.should_stop is not None and self.should_stop():
                self._checkpoint()
                raise Interrupted(f"stopped at step {self.history.steps} of {self.total_steps}")
        result = self._result(time.perf_counter() - began)
        self._finish(result)
        return result

    def _steps_to_next_event(self) -> int:
        step, config = self.history.steps, self.config
        intervals = [config.evaluate_every, config.checkpoint_every]
        if config.save_every:
            intervals.append(config.save_every)
        return min(self.total_steps - step, *(interval - step % interval for interval in intervals))

    def _advance(self, num_steps: int) -> None:
        """One dispatch; the loss on the fixed set ends it where it is due."""
        reached = self.history.steps + num_steps
        due = reached % self.config.evaluate_every == 0 or reached == self.total_steps
        self.history.append(self.engine.advance(num_steps, evaluate=due), slot=0)
        failed_step = int(self.engine.state.failed_step[0])
        if failed_step >= 0:
            self._fail(failed_step)

    def _fail(self, step: int) -> None:
        kept = ""
        if self.folder is not None and self.checkpoints is not None:
            self.folder.write_metrics(self.history)
            self.checkpoints.wait()
            kept = f"; the checkpoint of step {self.checkpoints.latest_step} is kept in {self.folder.path}"
        raise UserError(
            f"the loss or its gradient is not finite at step {step}{kept}: try a lower --learning-rate, "
            "--optimizer.max-grad-norm 1, or float32"
        )

    def _report(self) -> None:
        history = self.history
        found = diagnose(history, self._vectors(), self.prepared.vectors, self.vocabulary_norm)
        for kind, message in found.items():
            if kind not in self.warnings:
                logger.warning(message)
                self.warnings[kind] = message
        if self.on_progress is not None:
            recent = history.loss[-self.config.evaluate_every :]
            fixed_loss = history.fixed_loss[max(history.fixed_loss)] if history.fixed_loss else None
            self.on_progress(
                Progress(history.steps, self.total_steps, float(np.mean(recent)), history.norm[-1], fixed_loss)
            )

    def _save_if_due(self) -> None:
        step = self.history.steps
        if step % self.config.checkpoint_every == 0 or step == self.total_steps:
            self._checkpoint()
        if self.folder is not None and self.config.save_every and step % self.config.save_every == 0:
            concept = self._concept(self._vectors(), step)
            self.folder.save_step(concept, step)
            self._preview(concept, step)

    def _checkpoint(self) -> None:
        """Measurements first: those past the newest checkpoint are cut off on resume, missing ones could not be."""
        if self.folder is not None and self.checkpoints is not None:
            self.folder.write_metrics(self.history)
            self.checkpoints.save(self.history.steps, self.engine.snapshot(), self.prepared.identity)

    def _preview(self, concept: Concept, step: int) -> None:
        assert self.folder is not None
        images = draw(self.pipeline, concept, self.preview_prompts, steps=self.config.preview_steps)
        tile(images, len(self.preview_prompts), self.folder.path / "previews" / f"steps-{step}.png")

    def _finish(self, result: Result) -> None:
        if self.folder is None or self.checkpoints is None:
            return
        self.checkpoints.wait()
        before = self.folder.read_result()
        if before is None or before["steps"] != self.total_steps:
            summary = {
                "name": self.prepared.spec.name,
                "token": self.prepared.spec.placeholder,
                "status": "finished",
                "steps": self.total_steps,
                "loss": float(np.mean(self.history.loss[-100:])),
                "best_step": int(result.best.metadata["steps"]),
                "seconds": round(result.seconds, 3),
                "warnings": result.warnings,
            }
            loss_curve(self.history, self.folder.path / "loss.png")
            sheet = self.folder.path / "contact_sheet.png"
            contact_sheet(self.pipeline, result, self.preview_prompts, sheet, steps=self.config.preview_steps)
            self.folder.finish(self.prepared.spec.name, result.concept, result.best, summary)

    def _result(self, seconds: float) -> Result:
        state = self.engine.state
        return Result(
            concept=self._concept(_first(state.vectors), self.total_steps),
            best=self._concept(_first(state.best_vectors), int(state.best_step[0])),
            initial=self._concept(self.prepared.vectors, 0),
            history=self.history,
            pictures=[picture.pixels for picture in self.prepared.pictures],
            seconds=seconds,
            warnings=list(self.warnings.values()),
        )

    def _vectors(self) -> dict[str, np.ndarray]:
        return _first(self.engine.state.vectors)

    def _concept(self, vectors: Mapping[str, np.ndarray], step: int) -> Concept:
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
        return Concept(spec.placeholder, dict(vectors), metadata)


def _first(vectors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The vectors of the only slot."""
    return {name: np.asarray(v[0]) for name, v in vectors.items()}
