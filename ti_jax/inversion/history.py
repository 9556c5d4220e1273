"""What was measured at each step of one concept, in memory and as `metrics.jsonl`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ti_jax.inversion.step import ChunkLog


@dataclass
class History:
    """Measurements of one concept, one entry a step; `fixed_loss` also has one before the first step."""

    loss: list[float] = field(default_factory=list)
    """Mean squared error of the step's examples, unweighted."""
    norm: list[float] = field(default_factory=list)
    """Mean norm of the vectors after the step, over the vocabulary's median norm."""
    learning_rate: list[float] = field(default_factory=list)
    fixed_loss: dict[int, float] = field(default_factory=dict)
    """By number of steps taken: the loss on the fixed set."""

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.loss)

    def append(self, log: ChunkLog, slot: int) -> None:
        """Adds what a chunk did to a slot."""
        for loss, norm, rate, fixed_loss in zip(*(np.asarray(rows)[:, slot].tolist() for rows in log), strict=True):
            if not math.isnan(fixed_loss):
                self.fixed_loss[self.steps] = fixed_loss
            if not math.isnan(rate):
                self.loss.append(loss)
                self.norm.append(norm)
                self.learning_rate.append(rate)

    def to_jsonl(self) -> str:
        """One JSON object a step, in order; step 0 is before the first."""
        lines: list[dict[str, Any]] = []
        for step in range(self.steps + 1):
            line: dict[str, Any] = {"step": step}
            if step > 0:
                line["loss"] = self.loss[step - 1]
                line["norm"] = self.norm[step - 1]
                line["learning_rate"] = self.learning_rate[step - 1]
            if step in self.fixed_loss:
                line["fixed_loss"] = self.fixed_loss[step]
            lines.append(line)
        return "".join(json.dumps(line) + "\n" for line in lines)

    @classmethod
    def from_jsonl(cls, text: str, *, steps: int) -> History:
        """Reads what `to_jsonl` wrote, up to a number of steps; later lines are left out."""
        history = cls()
        for line in map(json.loads, text.splitlines()):
            if line["step"] > steps:
                break
            if line["step"] > 0:
                history.loss.append(line["loss"])
                history.norm.append(line["norm"])
                history.learning_rate.append(line["learning_rate"])
            if "fixed_loss" in line:
                history.fixed_loss[line["step"]] = line["fixed_loss"]
        return history
