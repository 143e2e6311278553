"""The page of a study, a pure function of the files of its cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from neolm.core.files import write_text
from neolm.core.manifest import recorded_values
from neolm.core.metrics import read_metrics
from neolm.report.compare import comparison_page
from neolm.report.run_files import optional_json
from neolm.report.training_run import read_training_runs


def write_study_page(target: Path, places: Sequence[tuple[str, int, Path]]) -> None:
    """Write the page of a study whose cells have these names, seeds and directories; any of them may be missing.

    Nothing is written while fewer than two cells have logged a step.
    """
    started = [place for _, _, place in places if read_metrics(place / "pretrain" / "metrics.jsonl")]
    if len(started) < 2:
        return
    with recorded_values(target.parent):
        write_text(target, comparison_page(read_training_runs(started), list(_remarks(places))))


def failure_of(place: Path) -> str | None:
    """Why a cell failed; None if it did not."""
    found = optional_json(place / "failure.json")
    return str(found.get("reason")) if isinstance(found, dict) else None


def _remarks(places: Sequence[tuple[str, int, Path]]) -> Iterator[str]:
    for name, seed, place in places:
        if (reason := failure_of(place)) is not None:
            yield f"{name}, seed {seed}, failed: {reason}"
    waiting = [f"{name}-seed{seed}" for name, seed, place in places if not (place / "pretrain").is_dir()]
    if waiting:
        yield f"Not started: {', '.join(waiting)}."
