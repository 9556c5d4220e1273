"""Learning one concept: the loop of many, with one slot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from etils import epath
from jax.sharding import Mesh

from ti_jax.config import ConceptSpec, InversionConfig, as_dict, concept_name, with_model_defaults
from ti_jax.errors import UserError
from ti_jax.inversion.bounds import Bounds
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.folder import check_output
from ti_jax.inversion.job import Job
from ti_jax.inversion.loop import Loop
from ti_jax.inversion.objective import check_learnable
from ti_jax.inversion.prepare import prepare
from ti_jax.inversion.result import Failure, Progress, QueueProgress, Result
from ti_jax.inversion.run_folder import RunFolder
from ti_jax.pipeline import Pipeline


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
    mesh: Mesh | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Learns a new word from a few pictures (Gal et al. 2022, arXiv 2208.01618).

    Args:
        pipeline: the frozen model, from `ti_jax.load`.
        pictures: a folder, a list of files, `bundled:NAME`, or arrays uint8 [h, w, 3]; 3 to 5 are usual.
        placeholder: the new word, such as `<fox>`; anything that is not a word of the vocabulary.
        initializer: a word or phrase that comes close, `random`, or an embedding file or run folder to go on from.
        config: settings; what they leave open is the model's to say.
        name: of the concept, which also picks its random stream; the letters and digits of the placeholder if None.
        output: run folder, local or remote; nothing is written if None.
        resume: go on with the run in `output`, ending with the very same vectors; a finished run is left as it is.
        overwrite: replace the run in `output`.
        mesh: of devices, with axes `concepts` (one) and `data`, over which each batch is divided; as many of this
            host's devices as divide the batch size if None.
        on_progress: called after each chunk of steps.
        should_stop: asked after each chunk; if true, the run saves and raises `Interrupted`.

    Returns:
        the learned concept, its history, and what it started from.

    Raises:
        UserError: for anything the user can put right: pictures, prompts, placeholder, initialiser, an output folder
            in use, a resume that would change the run, or a loss that is not finite.
        Interrupted: if `should_stop` said so.
    """
    check_learnable(pipeline)
    config = with_model_defaults(config or InversionConfig(), pipeline.inversion_defaults)
    spec = ConceptSpec(name or concept_name(placeholder), placeholder, initializer, pictures)
    folder = None if output is None else RunFolder(output)
    check_output(folder, resume=resume, overwrite=overwrite)  # before the work of preparing
    prepared = prepare(pipeline, spec, config)
    checkpoints = saved = None
    with contextlib.ExitStack() as stack:
        if folder is not None:
            from ti_jax.inversion.checkpoint import Checkpoints  # slow to import, and only needed with a folder

            folder.open(resume=resume, overwrite=overwrite)
            folder.claim(as_dict(config), prepared.identity)
            checkpoints = stack.enter_context(Checkpoints(folder.checkpoints))
            saved = next(iter(checkpoints.load(config)), None)
        job = Job(pipeline, prepared, config, folder, saved)
        loop = Loop(
            Engine(pipeline, config, 1, Bounds.of(prepared), mesh),
            iter([job]),
            checkpoints=checkpoints,
            profile=folder.profile if folder is not None and config.profile else None,
            on_progress=None if on_progress is None else _of_one(on_progress),
            should_stop=should_stop,
        )
        (outcome,) = loop.run()
        if isinstance(outcome, Failure):
            step = checkpoints and checkpoints.latest_step
            kept = "" if step is None else f"; the checkpoint of step {step} is kept in {output}"
            raise UserError(f"{outcome.reason}{kept}")
        return outcome


def _of_one(on_progress: Callable[[Progress], None]) -> Callable[[QueueProgress], None]:
    def show(progress: QueueProgress) -> None:
        if progress.slots[0] is not None:
            on_progress(progress.slots[0])

    return show
