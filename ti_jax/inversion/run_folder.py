"""The folder of one concept's run: what is in it, and when a run may go on in one that exists.

config.json                          what was asked for, the model's defaults filled in, and what the run is
metrics.jsonl                        loss, norm and rate of every step
checkpoints/                         state to resume from
learned_embeds.safetensors           the vectors, after the last step
<name>.safetensors                   the same; A1111 and ComfyUI name a concept by its file
learned_embeds-best.safetensors      the vectors that did best on the fixed set
learned_embeds-steps-N.safetensors   the vectors after N steps, with pictures in previews/steps-N.png
profile/                             one chunk of steps, if asked for: open it in XProf or Perfetto
loss.png, contact_sheet.png          how it went, and what the word draws
result.json                          written last: how the run ended
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ti_jax.concepts.concept import Concept
from ti_jax.errors import UserError
from ti_jax.files import write_text
from ti_jax.inversion.folder import Folder
from ti_jax.inversion.history import History


class RunFolder(Folder):
    """Reads and writes the files of one concept's run."""

    def write_metrics(self, history: History) -> None:
        """Writes every measurement so far."""
        write_text(self.path / "metrics.jsonl", history.to_jsonl())

    @property
    def has_metrics(self) -> bool:
        """Whether anything was measured: a folder is made when its concept is made ready, which may then wait."""
        return (self.path / "metrics.jsonl").exists()

    def read_metrics(self, *, steps: int) -> History:
        """The measurements up to a number of steps, which is where a resumed run goes on.

        Raises:
            UserError: if they are damaged.
        """
        file = self.path / "metrics.jsonl"
        try:
            return History.from_jsonl(file.read_text() if file.exists() else "", steps=steps)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is not what was written there: delete it, and the run begins anew") from error

    def save_step(self, concept: Concept, step: int) -> None:
        """Writes the vectors of an intermediate step."""
        concept.save(self.path / f"learned_embeds-steps-{step}.safetensors")

    def save(self, name: str, concept: Concept, best: Concept) -> None:
        """Writes what the run was for."""
        concept.save(self.path / "learned_embeds.safetensors")
        concept.save(self.path / f"{name}.safetensors")
        best.save(self.path / "learned_embeds-best.safetensors")

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes how the run ended; last, since it says that all the rest is there."""
        self.write_json("result.json", result)

    @property
    def has_result(self) -> bool:
        """Whether the run has ended."""
        return (self.path / "result.json").exists()

    def read_result(self) -> dict[str, Any] | None:
        """How the run ended; None while it has not."""
        return self.read_json(self.path / "result.json") if self.has_result else None
