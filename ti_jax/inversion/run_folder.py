"""The folder of one concept's run: what is in it, and when a run may go on in one that exists.

config.json                          what was asked for, the model's defaults filled in, and what the run is
metrics.jsonl                        loss, norm and rate of every step
checkpoints/                         state to resume from
learned_embeds.safetensors           the vectors, after the last step
<name>.safetensors                   the same; A1111 and ComfyUI name a concept by its file
learned_embeds-best.safetensors      the vectors that did best on the fixed set
learned_embeds-steps-N.safetensors   the vectors after N steps, with pictures in previews/steps-N.png
loss.png, contact_sheet.png          how it went, and what the word draws
result.json                          written last: how the run ended
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from ti_jax.concepts.concept import Concept
from ti_jax.config import differences
from ti_jax.errors import UserError
from ti_jax.files import write_text
from ti_jax.inversion.history import History


class RunFolder:
    """Reads and writes the files of a run.

    Args:
        path: of the folder, local or remote.
    """

    def __init__(self, path: epath.PathLike) -> None:
        self.path = epath.Path(path)

    @property
    def checkpoints(self) -> epath.Path:
        """Where the checkpoints go."""
        return self.path / "checkpoints"

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """Makes the folder, or decides what becomes of one that exists.

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
        if self.path.exists() and any(self.path.iterdir()):
            if not (self.path / "config.json").exists():
                raise UserError(f"{self.path} holds files that are not of a run: choose another --output")
            if overwrite:
                self.path.rmtree()
            elif not resume:
                raise UserError(
                    f"{self.path} holds a run already: go on with it by --resume, replace it by --overwrite, "
                    "or choose another --output"
                )
        self.path.mkdir(parents=True, exist_ok=True)

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Refuses to go on with a run that something else shaped.

        Args:
            identity: of the run that is asked for.

        Raises:
            UserError: if the run in the folder has another; every difference is shown.
        """
        file = self.path / "config.json"
        if not file.exists():
            return
        before = self._read_json(file).get("identity", {})
        changes = differences(before, identity)
        if changes:
            raise UserError(
                f"the run in {self.path} cannot be resumed, since this would change: {'; '.join(changes)}. "
                "Use the old settings, or start anew with --overwrite or another --output"
            )

    def write_config(self, config: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
        """Writes the resolved configuration and the run's identity."""
        self._write_json("config.json", {"config": config, "identity": identity})

    def write_metrics(self, history: History) -> None:
        """Writes every measurement so far."""
        write_text(self.path / "metrics.jsonl", history.to_jsonl())

    def read_metrics(self, *, steps: int) -> History:
        """The measurements up to a number of steps, which is where a resumed run goes on."""
        file = self.path / "metrics.jsonl"
        text = file.read_text() if file.exists() else ""
        return History.from_jsonl(text, steps=steps)

    def save_step(self, concept: Concept, step: int) -> None:
        """Writes the vectors of an intermediate step."""
        concept.save(self.path / f"learned_embeds-steps-{step}.safetensors")

    def finish(self, name: str, concept: Concept, best: Concept, result: Mapping[str, Any]) -> None:
        """Writes what the run was for; the result last, since it says that all the rest is there."""
        concept.save(self.path / "learned_embeds.safetensors")
        concept.save(self.path / f"{name}.safetensors")
        best.save(self.path / "learned_embeds-best.safetensors")
        self._write_json("result.json", result)

    def read_result(self) -> dict[str, Any] | None:
        """How the run ended; None while it has not."""
        file = self.path / "result.json"
        return self._read_json(file) if file.exists() else None

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        write_text(self.path / name, json.dumps(value, indent=2) + "\n")

    def _read_json(self, file: epath.Path) -> dict[str, Any]:
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file} is not JSON any more: start anew with --overwrite") from error
