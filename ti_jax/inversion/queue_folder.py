"""The folder of a queue of concepts, which hosts may share.

config.json                        what was asked for
results.jsonl                      one line a concept that has ended; of all hosts, once each has come to its end
results-host-I-of-N.jsonl          where there are several hosts: those of one of them, as they end
checkpoints/host-I-of-N/           state of that host's slots, and of what waits for one
NAME/                              run folder of a concept, without checkpoints of its own

Hosts write different files and read each other's; nothing else is between them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from ti_jax.config import InversionConfig
from ti_jax.errors import UserError
from ti_jax.files import write_text
from ti_jax.inversion.checkpoint import Checkpoints
from ti_jax.inversion.folder import Folder
from ti_jax.inversion.run_folder import RunFolder
from ti_jax.inversion.slots import Saved
from ti_jax.parallel.hosts import Host

Line = dict[str, Any]

RESERVED = ("checkpoints", "config.json", "profile", "results.jsonl")
"""What no concept can be called."""


class QueueFolder(Folder):
    """Reads and writes the files of a queue.

    Args:
        path: of the folder, local or remote.
        host: this one.
        names: of all concepts, those of other hosts too.
    """

    def __init__(self, path: epath.PathLike, host: Host, names: Sequence[str]) -> None:
        super().__init__(path)
        self._host, self._names = host, names
        self._own: dict[str, Line] = {}

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """As a run's folder, and reads what has ended."""
        super().open(resume=resume, overwrite=overwrite)
        self._own = self._read(self._results) if self._host.count > 1 else self.ended()

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """As a run's folder; several hosts always go on with what is in it, since one of them comes first.

        Raises:
            UserError: as `Folder.check`, and if one of several hosts is to overwrite what others write.
        """
        several = self._host.count > 1
        if several and overwrite:
            raise UserError(f"several hosts share {self.path}: delete it yourself, or choose another --output")
        super().check(resume=resume or several, overwrite=overwrite)

    @property
    def own_checkpoints(self) -> epath.Path:
        """Where the checkpoints of this host go."""
        return self.checkpoints / f"host-{self._host.index}-of-{self._host.count}"

    def run_folder(self, name: str) -> RunFolder:
        """The folder of a concept."""
        return RunFolder(self.path / name)

    def saved(self, config: InversionConfig) -> dict[tuple[str, str], Saved]:
        """The newest states that this host has saved, or any when there was another number of hosts.

        They are told apart by name and fingerprint: a concept whose settings have changed has had several runs.

        The other hosts of the same number have other concepts, and may be writing.
        """
        newest: dict[tuple[str, str], Saved] = {}
        for folder in sorted(self.checkpoints.glob("host-*-of-*")):
            _, index, _, count, *_ = folder.name.split("-")
            if int(count) == self._host.count and int(index) != self._host.index:
                continue
            with Checkpoints(folder, own=False) as checkpoints:
                for saved in checkpoints.load(config):
                    run = saved.name, saved.fingerprint
                    if run not in newest or saved.state.step > newest[run].state.step:
                        newest[run] = saved
        return newest

    def ended(self) -> dict[str, Line]:
        """The line of each concept that has ended on any host, by name; where there are several, one that finished.

        One that finished and whose folder was deleted since has not ended, also where it has begun anew. Of failures
        the last is this host's own, and the first what is merged of earlier sessions.
        """
        merged = self.path / "results.jsonl"
        files = sorted(self.path.glob("results*.jsonl"), key=lambda file: (file == self._results, file != merged))
        found = [(name, line) for file in files for name, line in self._read(file).items()]
        finished = self._with_results({name for name, line in found if line["status"] == "finished"})
        lines: dict[str, Line] = {}
        for name, line in found:
            is_finished = line["status"] == "finished"
            if (is_finished and name in finished) or (not is_finished and name not in finished):
                lines[name] = line
        return lines

    def _with_results(self, names: Iterable[str]) -> set[str]:
        """Of these concepts, those whose run folder says how they ended; asked for at once, as a bucket takes long."""
        with ThreadPoolExecutor(16) as pool:
            ended = pool.map(lambda name: (name, self.run_folder(name).has_result), names)
            return {name for name, has_result in ended if has_result}

    def add(self, line: Line) -> None:
        """Adds how a concept ended."""
        self._own[line["name"]] = line
        self._write(self._results, self._own)

    def merge(self) -> None:
        """Writes `results.jsonl` of all hosts as far as they have come, in the order of the queue."""
        self._write(self.path / "results.jsonl", self.ended())

    @property
    def _results(self) -> epath.Path:
        several = f"-host-{self._host.index}-of-{self._host.count}" if self._host.count > 1 else ""
        return self.path / f"results{several}.jsonl"

    def _read(self, file: epath.Path) -> dict[str, Line]:
        try:
            lines: Iterable[Line] = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
            return {line["name"]: line for line in lines}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is not what was written there: delete it, and what it lists is redone") from error

    def _write(self, file: epath.Path, lines: dict[str, Line]) -> None:
        order = {name: i for i, name in enumerate(self._names)}
        rows = sorted(lines.values(), key=lambda line: order.get(line["name"], len(order)))
        write_text(file, "".join(json.dumps(line) + "\n" for line in rows))
