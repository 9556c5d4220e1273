"""Learning many concepts through a few slots."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from ti_jax.config import ConceptSpec, InversionConfig, as_dict, for_concept, with_model_defaults
from ti_jax.errors import UserError
from ti_jax.inversion.bounds import find_bounds
from ti_jax.inversion.checkpoint import Checkpoints
from ti_jax.inversion.engine import Engine
from ti_jax.inversion.folder import check_output
from ti_jax.inversion.job import Job, summary
from ti_jax.inversion.loop import Loop
from ti_jax.inversion.objective import check_learnable
from ti_jax.inversion.prepare import prepare, settings_identity
from ti_jax.inversion.queue_folder import RESERVED, QueueFolder
from ti_jax.inversion.result import Failure, QueueProgress, Result
from ti_jax.inversion.slots import Saved
from ti_jax.parallel.hosts import ALONE, Host, share
from ti_jax.pipeline import Pipeline

logger = logging.getLogger(__name__)


class FailedConcepts(UserError):
    """Some concepts came to nothing; all others are done.

    Attributes:
        reasons: by name.
    """

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__(
            f"{len(reasons)} concept(s) failed: {'; '.join(f'{name} ({why})' for name, why in reasons.items())}"
        )
        self.reasons = reasons


def invert_many(
    pipeline: Pipeline,
    concepts: Iterable[ConceptSpec],
    *,
    config: InversionConfig | None = None,
    slots: int = 8,
    output: epath.PathLike | None = None,
    resume: bool = False,
    overwrite: bool = False,
    host: Host = ALONE,
    contact_sheets: bool = False,
    mesh: Mesh | None = None,
    on_progress: Callable[[QueueProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[Result]:
    """Learns many new words at a time, each as if it were alone.

    One compiled program runs all slots; a concept that is done leaves its slot to the next of the queue.

    Args:
        pipeline: the frozen model, from `ti_jax.load`.
        concepts: with names that differ.
        config: settings for all; a concept may have some of its own. What they leave open is the model's to say.
        slots: concepts learned at a time; fewer if there are not as many. A multiple of the number of devices is best.
        output: folder, local or remote, with one run folder a concept and `results.jsonl`; nothing is written if None.
        resume: go on with what is in `output`: finished concepts are left out, those under way go on from the newest
            checkpoint, on whatever host they were, and so do failed ones, unless their settings have changed since.
        overwrite: replace what is in `output`.
        host: which of how many that share `output`; it learns its own share of the concepts.
        contact_sheets: draw what each word draws when it is done, and its losses, which takes a while.
        mesh: of devices, with axes `concepts` and `data`; from this host's devices if None.
        on_progress: called after each chunk of steps.
        should_stop: asked after each chunk; if true, everything is saved and `Interrupted` raised.

    Returns:
        results as they come.

    Raises:
        UserError: at once, if two concepts have one name or `output` is in use; `FailedConcepts` in the end, if some
            failed.
        Interrupted: if `should_stop` said so.
    """
    check_learnable(pipeline)
    config = with_model_defaults(config or InversionConfig(), pipeline.inversion_defaults)
    specs = list(concepts)
    _check_names(specs)
    if slots < 1:
        raise UserError(f"{slots} slots are too few: give 1 or more")
    folder = None if output is None else QueueFolder(output, host, [spec.name for spec in specs])
    check_output(folder, resume=resume, overwrite=overwrite)
    own = set(share([spec.name for spec in specs], host))
    queue = [spec for spec in specs if spec.name in own]
    slots = used_slots(slots, len(queue), mesh)
    engine = Engine(pipeline, config, slots, find_bounds(pipeline, specs, config), mesh)
    if folder is not None:
        folder.open(resume=resume, overwrite=overwrite)
        identity = settings_identity(pipeline, config)
        folder.claim(as_dict(config), identity)
        folder.write_config(as_dict(config), identity)
    return _run(pipeline, queue, config, engine, folder, contact_sheets, on_progress, should_stop)


def used_slots(slots: int, concepts: int, mesh: Mesh | None) -> int:
    """How many slots a queue needs.

    Args:
        slots: at most.
        concepts: in the queue.
        mesh: of devices; None for those of this host.

    Returns:
        no more than there are concepts, rounded up so that all devices have equally many. Where this host has devices
        enough for more than one each, they are not rounded up: what is left over divides their batches.
    """
    devices = jax.local_device_count() if mesh is None else mesh.shape["concepts"]
    rounded = -(-max(concepts, 1) // devices) * devices
    return min(slots, max(concepts, 1) if mesh is None and concepts < devices else rounded)


def _check_names(specs: Sequence[ConceptSpec]) -> None:
    names = Counter(spec.name for spec in specs)
    folders = Counter(name.casefold() for name in names.elements())  # some file systems do not tell case apart
    twice = [name for name in names if folders[name.casefold()] > 1]
    if twice:
        raise UserError(f"several concepts are called {', '.join(twice)}: names pick folders and random streams")
    reserved = [name for name in names if name in RESERVED or name.startswith("results-")]
    if reserved:
        raise UserError(f"a concept cannot be called {', '.join(reserved)}: a file of the run is")


def _run(
    pipeline: Pipeline,
    queue: Sequence[ConceptSpec],
    config: InversionConfig,
    engine: Engine,
    folder: QueueFolder | None,
    contact_sheets: bool,
    on_progress: Callable[[QueueProgress], None] | None,
    should_stop: Callable[[], bool] | None,
) -> Iterator[Result]:
    saved: dict[tuple[str, str], Saved] = {}
    failed_before: set[str] = set()
    with contextlib.ExitStack() as stack:
        checkpoints = None
        if folder is not None:
            lines = folder.ended()
            finished = {name for name, line in lines.items() if line["status"] == "finished"}
            failed_before = {name for name in lines.keys() - finished if not lines[name].get("refused")}
            _warn_of_shorter([spec for spec in queue if spec.name in finished], config, lines)
            queue = [spec for spec in queue if spec.name not in finished]
            logger.info("%d concepts to learn, %d are finished", len(queue), len(finished))
            saved = {run: state for run, state in folder.saved(config).items() if state.name not in finished}
            checkpoints = stack.enter_context(Checkpoints(folder.own_checkpoints))
        under_way = {name for name, _ in saved}
        queue = sorted(queue, key=lambda spec: spec.name not in under_way)

        def begin(spec: ConceptSpec) -> Job | Failure:
            try:
                own = for_concept(config, spec)
                prepared = prepare(pipeline, spec, own)
                place = None if folder is None else folder.run_folder(spec.name)
                if place is not None:
                    has_begun = spec.name in under_way or place.has_metrics
                    may_change = spec.name in failed_before or not has_begun
                    changes = place.changes(prepared.identity)
                    if changes and not may_change:
                        reason = f"it is under way, and this would change: {'; '.join(changes)}. Use the old settings"
                        return Failure(spec, f"{reason}, or delete {place.path} to begin it anew", refused=True)
                    place.open(resume=not changes, overwrite=bool(changes))
                    place.claim(as_dict(own), prepared.identity)
                return Job(pipeline, prepared, own, place, saved.get((spec.name, prepared.fingerprint)), contact_sheets)
            except UserError as error:
                return Failure(spec, str(error))
            except Exception as error:  # whatever a damaged picture does to a decoder must not stop the others
                return Failure(spec, f"{type(error).__name__}: {error}")

        loop = Loop(
            engine,
            stack.enter_context(contextlib.closing(_ahead(begin, queue))),
            total=len(queue),
            checkpoints=checkpoints,
            waiting=saved.values(),
            profile=folder.profile if folder is not None and config.profile else None,
            on_progress=on_progress,
            should_stop=should_stop,
        )
        reasons: dict[str, str] = {}
        for outcome in loop.run():
            if isinstance(outcome, Failure):
                logger.error("%s failed: %s", outcome.spec.name, outcome.reason)
                reasons[outcome.spec.name] = outcome.reason
            if folder is not None:
                folder.add(_line(outcome, folder))
            if isinstance(outcome, Result):
                yield outcome
        if folder is not None:
            folder.merge()
    if reasons:
        raise FailedConcepts(reasons)


def _warn_of_shorter(
    finished: Sequence[ConceptSpec], config: InversionConfig, lines: Mapping[str, Mapping[str, Any]]
) -> None:
    """Names concepts that ended before the number of steps that is asked for now."""

    def is_shorter(spec: ConceptSpec) -> bool:
        line, steps = lines[spec.name], for_concept(config, spec).steps
        return steps is not None and line["steps"] < steps and not line["stopped_early"]

    if shorter := [spec.name for spec in finished if is_shorter(spec)]:
        logger.warning(
            "%d finished concepts, such as %s, took fewer steps than are asked for now, and stay as they are: delete "
            "the folder of one to learn it anew",
            len(shorter),
            shorter[0],
        )


def _ahead(
    begin: Callable[[ConceptSpec], Job | Failure], queue: Iterable[ConceptSpec]
) -> Generator[Job | Failure, None, None]:
    """Concepts made ready, one ahead of the one that is asked for: the devices do not wait for pictures."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[Job | Failure]] = deque()
        try:
            for spec in queue:
                pending.append(pool.submit(begin, spec))
                if len(pending) > 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _line(outcome: Result | Failure, folder: QueueFolder) -> dict[str, object]:
    """How a concept ended, for `results.jsonl`."""
    if isinstance(outcome, Failure):
        spec = outcome.spec
        line = {"name": spec.name, "token": spec.placeholder, "status": "failed", "reason": outcome.reason}
        return {**line, "refused": outcome.refused}
    line = summary(outcome)
    return {**line, "file": str(folder.path / line["name"] / "learned_embeds.safetensors")}
