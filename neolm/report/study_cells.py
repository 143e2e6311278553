"""The trainings of a study, read from their directories: finished, failed, interrupted or not started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neolm.core.manifest import read_manifest
from neolm.core.metrics import points, read_metrics
from neolm.report.chart import Point
from neolm.report.run_files import optional_json
from neolm.report.training_run import TrainingRun, read_training_run

MASKED_LOSSES = ("validation_masked_tokens_loss", "validation_loss")
"""Keys of the validation loss of masked tokens: with a sentence task, and without one."""
COUNTS = {
    "parameters": "parameters",
    "tokens_per_second": "speed",
    "training_seconds": "seconds",
    "tokens": "tokens",
}
"""Counts of a training, and their names here."""


@dataclass(frozen=True)
class CellRun:
    """One training of a study."""

    name: str
    seed: int
    training: TrainingRun | None
    """None if it has not logged a step."""
    values: Mapping[str, float]
    """What was measured, by its name; empty if the cell is not finished."""
    errors: Mapping[str, float]
    """Half of the interval of a score over the held-out documents, by the name of the score."""
    failure: str | None = None

    @property
    def state(self) -> str:
        """In words."""
        if self.values:
            return "finished"
        if self.failure is not None:
            return f"failed: {self.failure}"
        return "not started" if self.training is None else f"not finished, {self.training.steps:,} steps"

    def masked_loss(self, axis: str = "step") -> list[Point]:
        """The validation loss of masked tokens over steps or `seconds`."""
        for key in MASKED_LOSSES:
            if self.training and (found := points(self.training.metrics, key)):
                return found if axis == "step" else self.training.by(key, axis)
        return []


def read_cells(places: Sequence[tuple[str, int, Path]]) -> list[CellRun]:
    """Read the cells with these names, seeds and directories."""
    return [_read(name, seed, place) for name, seed, place in places]


def _read(name: str, seed: int, place: Path) -> CellRun:
    logged = bool(read_metrics(place / "pretrain" / "metrics.jsonl"))
    training = read_training_run(f"{name}-seed{seed}", place / "pretrain") if logged else None
    reason = failure_of(place)
    scores = read_manifest(place / "heldout")
    if training is None or training.manifest is None or scores is None or reason is not None:
        return CellRun(name, seed, training, {}, {}, reason)
    counts = training.manifest.counts
    values = {words: float(counts[key]) for key, words in COUNTS.items()}
    values["training_bytes"] = float(scores.counts["training_bytes"])
    found = {key: score for key, score in scores.counts.items() if isinstance(score, dict)}
    errors = {key: (s["high"] - s["low"]) / 2 for key, s in found.items() if s["low"] is not None}
    return CellRun(name, seed, training, values | {key: score["value"] for key, score in found.items()}, errors)


def failure_of(place: Path) -> str | None:
    """Why a cell failed; None if it did not."""
    found = optional_json(place / "failure.json")
    return str(found.get("reason")) if isinstance(found, dict) else None


def loss_at(curve: Sequence[Point], place: float) -> float | None:
    """The loss at a place on the axis, between two validations by a straight line; None before the first one."""
    before = [point for point in curve if point[0] <= place]
    after = [point for point in curve if point[0] > place]
    if not before or not after:
        return before[-1][1] if before else None
    (x, low), (right, high) = before[-1], after[0]
    return low + (high - low) * (place - x) / (right - x)
