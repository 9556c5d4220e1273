"""When a run may begin in a folder, or go on in one that exists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from ti_jax.config import differences
from ti_jax.errors import UserError
from ti_jax.files import locate, write_text


def check_output(folder: Folder | None, *, resume: bool, overwrite: bool) -> None:
    """`Folder.check`, or a UserError where something is asked for that only a folder can have."""
    if folder is not None:
        folder.check(resume=resume, overwrite=overwrite)
    elif resume or overwrite:
        raise UserError("resume and overwrite are about a folder: give output")


class Folder:
    """What the folders of one concept and of a queue have in common.

    Args:
        path: of the folder, local or remote.

    Raises:
        UserError: if that kind of storage is not known, or the package for it is missing.
    """

    def __init__(self, path: epath.PathLike) -> None:
        self.path = locate(path)

    @property
    def checkpoints(self) -> epath.Path:
        """Where the checkpoints go."""
        return self.path / "checkpoints"

    @property
    def profile(self) -> epath.Path:
        """Where a chunk of steps is recorded."""
        return self.path / "profile"

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """Makes the folder, in place of the one that exists if it is to be overwritten; raises what `check` raises."""
        self.check(resume=resume, overwrite=overwrite)
        if overwrite and self._is_in_use():
            self.path.rmtree()
        self.path.mkdir(parents=True, exist_ok=True)

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Whether a run may begin in the folder or go on; nothing is changed.

        Args:
            resume: go on with the run that is in it, if one is.
            overwrite: delete the run that is in it.

        Raises:
            UserError: if it holds a run and neither is asked for, or holds something else.
        """
        if resume and overwrite:
            raise UserError("--resume goes on with a run and --overwrite deletes it: choose one")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file: choose another --output")
        if self._is_in_use():
            if not self._holds_a_run():
                raise UserError(f"{self.path} holds files that are not of a run: choose another --output")
            if not resume and not overwrite:
                raise UserError(
                    f"{self.path} holds a run already: go on with it by --resume, replace it by --overwrite, "
                    "or choose another --output"
                )

    def _is_in_use(self) -> bool:
        """Whether there is anything in it that is not hidden."""
        return self.path.exists() and any(not entry.name.startswith(".") for entry in self.path.iterdir())

    def _holds_a_run(self) -> bool:
        """Whether its `config.json` is of a run: many a folder has one that is not."""
        file = self.path / "config.json"
        try:
            return file.exists() and "identity" in self.read_json(file)
        except UserError:
            return False

    def claim(self, config: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Makes a new folder a run's, or refuses to go on with a run that something else shaped.

        Args:
            config: resolved; written to a new folder.
            identity: of the run that is asked for.

        Raises:
            UserError: if the run in the folder has another; every difference is shown.
        """
        if not (self.path / "config.json").exists():
            self.write_config(config, identity)
        elif changes := self.changes(identity):
            raise UserError(
                f"the run in {self.path} cannot be resumed, since this would change: {'; '.join(changes)}. "
                "Use the old settings, or start anew with --overwrite or another --output"
            )

    def changes(self, identity: Mapping[str, Any]) -> list[str]:
        """What would be other than in the run in the folder; nothing if there is none."""
        if not self._holds_a_run():
            return []
        return differences(self.read_json(self.path / "config.json")["identity"], identity)

    def write_config(self, config: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Writes the resolved configuration and the run's identity."""
        self.write_json("config.json", {"config": config, "identity": identity})

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a file of JSON."""
        write_text(self.path / name, json.dumps(value, indent=2) + "\n")

    def read_json(self, file: epath.Path) -> dict[str, Any]:
        """Reads one; UserError if it is damaged."""
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} is not JSON any more: delete {self.path}, or choose another --output") from error
