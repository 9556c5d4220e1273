"""`ti-jax invert-many`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ti_jax.cli.common import Common
from ti_jax.cli.stop import Stop
from ti_jax.config import ConceptSpec, InversionConfig
from ti_jax.errors import UserError
from ti_jax.parallel.hosts import find_host, join_slice

if TYPE_CHECKING:
    from ti_jax.inversion.result import QueueProgress


@dataclass(frozen=True)
class DataSet:
    """A prepared data set in the place of a folder: one concept a class."""

    tfds: str | None = None
    """Name of a data set in tensorflow-datasets, prepared as ArrayRecord."""
    data_dir: str | None = None
    """Folder in which the data set was prepared."""
    split: str = "train"
    """Which part, such as `train` or `train[:10%]`."""
    per_class: int = 5
    """Pictures of each class."""


@dataclass(frozen=True)
class InvertMany:
    """Learn many new words at a time, each from 3 to 5 pictures."""

    source: tyro.conf.Positional[str | None] = None
    """A folder of folders of pictures, or a YAML file with `concepts: [{name, token, init, pictures, ...}]`, where a
    concept may have its own steps, learning_rate, num_vectors, templates and prompts."""
    init: str | None = None
    """What all concepts of a folder or data set start from. Unset: `initializer.txt` in a concept's folder, or else its
    name."""
    token: str = "<{name}>"
    """The new words of a folder's or data set's concepts; {name} is the concept's."""
    slots: int = 8
    """Concepts learned at a time; a multiple of the number of devices is best."""
    resume: bool = False
    """Go on with what is in the output folder: finished concepts are left out, failed ones tried again."""
    overwrite: bool = False
    """Replace what is in the output folder."""
    contact_sheets: bool = False
    """Draw what each word draws when it is done, and its loss.png, which takes a while."""
    host: int | None = None
    """Which of several processes that share the output folder this is, from 0. Unset: as Slurm's srun says, or the only
    one."""
    hosts: int | None = None
    """How many there are."""
    distributed: bool = False
    """On the workers of a TPU slice, whose runtime needs all of them: find the others by itself."""
    data_set: Annotated[DataSet, tyro.conf.arg(name="")] = field(default_factory=DataSet)
    common: Annotated[Common, tyro.conf.arg(name="")] = field(default_factory=Common)
    settings: Annotated[InversionConfig, tyro.conf.arg(name="")] = field(default_factory=InversionConfig)

    def run(self) -> None:
        """Learns, writes a run folder for each concept, and says how each ended."""
        import ti_jax
        from ti_jax.inversion.invert_many import FailedConcepts
        from ti_jax.inversion.queue_folder import QueueFolder
        from ti_jax.terminal import show_queue

        if self.distributed and (self.host, self.hosts) != (None, None):
            raise UserError("--distributed finds the other hosts by itself: leave out --host and --hosts")
        host = join_slice() if self.distributed else find_host(self.host, self.hosts)
        output = self.common.output or f"runs/{self._name()}"
        concepts = self._concepts(output)
        names = [spec.name for spec in concepts]
        QueueFolder(output, host, names).check(resume=self.resume, overwrite=self.overwrite)  # before a model is loaded
        last: list[QueueProgress] = []
        with Stop() as stop, show_queue() as on_progress:

            def note(progress: QueueProgress) -> None:
                last[:] = [progress]
                on_progress(progress)

            results = ti_jax.invert_many(
                self.common.load_pipeline(),
                concepts,
                config=self.settings,
                slots=self.slots,
                output=output,
                resume=self.resume,
                overwrite=self.overwrite,
                host=host,
                contact_sheets=self.contact_sheets,
                on_progress=note,
                should_stop=stop,
            )
            finished, failed = [], None
            try:
                for result in results:
                    finished.append(result.concept.metadata["name"])
            except FailedConcepts as error:
                failed = error
        summary = {
            "finished": finished,
            "failed": failed.reasons if failed else {},
            "idle": last[0].idle if last else 0.0,
            "results": f"{output}/results.jsonl",
        }
        if self.common.json:
            print(json.dumps(summary))
        else:
            print(f"learned {len(finished)} concepts: {summary['results']}; slots were idle {summary['idle']:.1%}")
        if failed:
            raise failed

    def _name(self) -> str:
        return self.data_set.tfds or Path(os.path.abspath(self.source or "")).stem

    def _concepts(self, output: str) -> list[ConceptSpec]:
        from ti_jax.data.sources import concepts_from_folder, concepts_from_tfds, concepts_from_yaml

        if (self.source is None) == (self.data_set.tfds is None):
            raise UserError("name a folder of folders or a YAML file, or a data set by --tfds")
        if self.data_set.tfds is None and self.data_set != DataSet():
            raise UserError("--data-dir, --split and --per-class are of a data set: name it by --tfds")
        if self.data_set.tfds is not None:
            return concepts_from_tfds(
                self.data_set.tfds,
                data_dir=self.data_set.data_dir,
                split=self.data_set.split,
                per_class=self.data_set.per_class,
                token=self.token,
                init=self.init,
            )
        assert self.source is not None
        if self.source.endswith((".yaml", ".yml")):
            if (self.token, self.init) != (InvertMany.token, None):
                raise UserError("a YAML file says the token and the init of each concept: leave out --token and --init")
            return concepts_from_yaml(self.source)
        concepts = concepts_from_folder(self.source, token=self.token, init=self.init)
        return [spec for spec in concepts if not _is_of_runs(spec.pictures, output)]


def _is_of_runs(folder: str, output: str) -> bool:
    """Whether a folder is none of pictures, but the one that the results go into: `runs` in `invert-many .`."""
    from etils import epath

    inside = Path(os.path.abspath(output)).is_relative_to(os.path.abspath(folder))
    return inside and not any(path.is_file() for path in epath.Path(folder).iterdir())
