"""What an inversion tells while it runs, and what it gives in the end."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ti_jax.concepts.concept import Concept
from ti_jax.config import ConceptSpec
from ti_jax.inversion.history import History


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had."""


@dataclass(frozen=True)
class Progress:
    """Where a concept is."""

    name: str
    step: int
    total_steps: int
    loss: float
    """Mean over the latest `evaluate_every` steps."""
    norm: float
    """Of the vectors, over the vocabulary's median."""
    fixed_loss: float | None
    """The latest loss on the fixed set."""


@dataclass(frozen=True)
class QueueProgress:
    """Where a queue of concepts is."""

    slots: list[Progress | None]
    """None where a slot is empty."""
    total: int
    """Concepts that this session began with."""
    finished: int
    failed: int
    steps: int
    """Steps that concepts have taken in this session."""
    idle: float
    """Share of the slots' steps that were wasted on empty or finished slots, in [0, 1]."""


@dataclass(frozen=True)
class Failure:
    """A concept that came to nothing."""

    spec: ConceptSpec
    reason: str
    refused: bool = False
    """Whether there is a run of it that could go on, with the settings it was begun with."""


@dataclass(frozen=True)
class Result:
    """What an inversion gives."""

    concept: Concept
    """The vectors after the last step."""
    best: Concept
    """The vectors that did best on the fixed set."""
    initial: Concept
    """The vectors before the first step."""
    history: History
    pictures: list[np.ndarray] = field(repr=False)
    """The training pictures as the model saw them, uint8 [resolution, resolution, 3] each."""
    seconds: float
    """From when it took its slot to its end, compilation included; of this session alone if the run was resumed."""
    warnings: list[str]
    """What looked wrong on the way."""
    settled: bool = False
    """Whether the stopping rule ended it before its last step."""
