"""A training for the comparison, finished or still running, read from its directory `pretrain/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from neolm.core.errors import InputError
from neolm.core.files import read_json
from neolm.core.manifest import Manifest, read_manifest
from neolm.core.metrics import points, read_metrics
from neolm.report.chart import Point, steady
from neolm.report.run_files import DIGITS, read_scores
from neolm.report.scores import Score, read_score


@dataclass(frozen=True)
class TrainingRun:
    """One training: the settings that it was started with, its metrics and, if it is finished, its manifest."""

    name: str
    directory: Path
    settings: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    manifest: Manifest | None
    scores: Mapping[str, Any]
    """`scores.json` of its run; empty if it was not evaluated or was trained further since then."""

    @property
    def bits_per_byte(self) -> Score | None:
        """The score with its interval; None if there is none."""
        return read_score(self.scores, "bits_per_byte")

    @property
    def steps(self) -> int:
        """The last step that was logged."""
        return int(self.metrics[-1]["step"])

    @property
    def tokens(self) -> float | None:
        """Tokens trained on, by the last row."""
        return self.last("tokens")

    @property
    def training_loss(self) -> float | None:
        """The moving average at the end, as the page draws it; the loss of a single step is noisy."""
        losses = [loss for _, loss in points(self.metrics, "loss")]
        return steady(losses)[-1] if losses else None

    @property
    def validation(self) -> list[Point]:
        """`(step, validation loss)`."""
        return points(self.metrics, "validation_loss")

    @property
    def best(self) -> Point | None:
        """`(step, validation loss)` of the lowest validation loss."""
        return min(self.validation, key=lambda point: point[1], default=None)

    @cached_property
    def seconds(self) -> float | None:
        """Duration of the training: as recorded at the end, or computed from the rows so far."""
        recorded = self.manifest.counts.get("training_seconds") if self.manifest else None
        return float(recorded) if recorded else max(_seconds_by_rows(self.metrics).values(), default=None)

    @cached_property
    def parameters(self) -> int | None:
        """Parameters of the model; counted from its shape while the training is not finished."""
        recorded = self.manifest.counts.get("parameters") if self.manifest else None
        if recorded:
            return int(recorded)
        from neolm.models.stored_model import parameter_count, recorded_config

        architecture = self.settings.get("model")
        try:
            return parameter_count(recorded_config(architecture)) if isinstance(architecture, dict) else None
        except InputError:  # as another version of NeoLM wrote it
            return None

    def last(self, key: str) -> float | None:
        """The last value of a key in the rows."""
        found = points(self.metrics, key)
        return found[-1][1] if found else None

    def usual(self, key: str) -> float | None:
        """The median of a key over the rows."""
        values = [value for _, value in points(self.metrics, key)]
        return median(values) if values else None

    def by(self, key: str, axis: str) -> list[Point]:
        """A loss over `tokens` or `seconds` instead of steps; a validation has the position of the row before it."""
        places = dict(points(self.metrics, "tokens")) if axis == "tokens" else _seconds_by_rows(self.metrics)
        logged = max(places.values(), default=0.0)
        # Seconds are scaled to the recorded duration if the run is finished.
        factor = (self.seconds or logged) / logged if axis == "seconds" and logged else 1.0
        found, place = [], 0.0
        for row in self.metrics:
            place = places.get(row["step"], place)
            if isinstance(row.get(key), (int, float)):
                found.append((place * factor, float(row[key])))
        return found


def _seconds_by_rows(rows: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    """Seconds of training by step: the speed in a row is that of the tokens since the row before."""
    speeds, found, seconds, before = dict(points(rows, "tokens_per_second")), {}, 0.0, 0.0
    for step, tokens in points(rows, "tokens"):
        if speeds.get(step):
            seconds += max(0.0, tokens - before) / speeds[step]
            before = tokens
        found[step] = seconds
    return found


def read_training_runs(places: Sequence[Path]) -> list[TrainingRun]:
    """Read the runs in these directories (a run's output or its `pretrain/`) and give them distinct names.

    Raises:
        InputError: fewer than two, one given twice, or one that is not a run or has logged nothing.
    """
    if len(places) < 2:
        raise InputError("compare: give at least two runs: neolm compare RUN RUN")
    directories = [_pretrain_directory(place) for place in places]
    for number, directory in enumerate(directories):
        if directory in directories[:number]:
            raise InputError(f"compare: {places[number]} is given twice")
    names = _short_names([d.parent if d.name == "pretrain" else d for d in directories])
    return [read_training_run(name, d, place) for name, place, d in zip(names, places, directories, strict=True)]


def _pretrain_directory(place: Path) -> Path:
    """The resolved directory of the training in a run or in `pretrain/`."""
    if not place.is_dir():
        raise InputError(f"compare: {place}: no such directory")
    for directory in (place.resolve() / "pretrain", place.resolve()):
        if (directory / "metrics.jsonl").is_file() or (directory.name == "pretrain" and directory.is_dir()):
            return directory
    raise InputError(f"compare: {place}: no training was started here. Give the output directory of a run")


def read_training_run(name: str, directory: Path, place: Path | None = None) -> TrainingRun:
    """Read the training in the directory `pretrain/` of a run. Errors name `place`, as it was given.

    Raises:
        InputError: it has logged nothing, or its settings are broken.
    """
    metrics = read_metrics(directory / "metrics.jsonl")
    if not metrics:
        raise InputError(f"compare: {place or directory}: no step has been logged yet (pretrain/metrics.jsonl)")
    try:
        config = read_json(directory / "config.json")
        inputs = {key: str(value["digest"])[:DIGITS] for key, value in config.pop("inputs", {}).items()}
    except (InputError, AttributeError, TypeError, KeyError):
        raise InputError(f"compare: {directory / 'config.json'} is not the settings file of a training") from None
    scores = read_scores(directory.parent) if directory.name == "pretrain" else {}
    return TrainingRun(name, directory, {**config, "inputs": inputs}, metrics, read_manifest(directory), scores)


def _short_names(outputs: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many last parts as it takes to make the names distinct."""
    lengths, names = [1] * len(outputs), [path.name for path in outputs]
    while len(set(names)) < len(set(outputs)):
        lengths = [length + (names.count(name) > 1) for length, name in zip(lengths, names, strict=True)]
        names = ["/".join(path.parts[-length:]) for path, length in zip(outputs, lengths, strict=True)]
    return names
