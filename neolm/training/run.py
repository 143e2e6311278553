"""A training as THE loop takes it: what is trained on what, how, where; and what comes of one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from neolm.core.device import Choice
from neolm.data.batches import Batch
from neolm.models.decoder import Decoder
from neolm.training.config import TrainConfig
from neolm.training.losses import Objective
from neolm.training.trackers import Tracker

NOT_COMPILED = Choice("off", "as asked")


class TrainingData(Protocol):
    """Batches as a function of the step, and where they came from."""

    def batch(self, step: int) -> Batch:
        """The batch of `step`, counted from 1; called from another thread, one step ahead."""
        ...

    def documents(self, step: int, rows: slice = ...) -> list[str]:
        """Ids of the documents behind rows of that batch."""
        ...


@dataclass(frozen=True)
class Training:
    """One training: what is trained on what, how, where, and where the results go."""

    model: Decoder
    objective: Objective
    data: TrainingData
    validation: Sequence[Batch]
    config: TrainConfig
    directory: Path
    device: Choice
    precision: Choice
    compile: Choice = NOT_COMPILED
    flops_per_token: float = 0.0
    """FLOPs of a forward and a backward pass."""
    ceiling: float = 0.0
    """FLOP/s of this machine's matrix products, against which MFU is measured; 0: unknown."""
    trackers: Callable[[int], Sequence[Tracker]] = lambda resume_at: ()
    """Opens what else gets the metrics, given the step that the training goes on from."""

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.directory / "checkpoints"


@dataclass(frozen=True)
class Outcome:
    """What came of one step."""

    loss: float
    """Nats a target, mean of the step's batch."""
    norm: float
    """Of the gradient, over all parameters, before clipping."""
    sequences: int
    sequence_length: int
    skipped: str | None
    """Why the weights were left as they were; None where they moved."""
    metrics: dict[str, float]
    """Means a target of what the objective measured besides."""

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return self.sequences * self.sequence_length
