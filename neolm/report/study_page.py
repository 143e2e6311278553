"""The page of a study, a pure function of the files of its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from neolm.core.files import write_text
from neolm.core.manifest import recorded_values
from neolm.report.albert_page import albert_page
from neolm.report.compare import comparison_page
from neolm.report.study_cells import CellRun, read_cells


def write_study_page(
    target: Path, places: Sequence[tuple[str, int, Path]], kind: str, changes: Mapping[str, str]
) -> None:
    """Write the page of a study whose cells have these names, seeds and directories; any of them may be missing.

    `kind` is that of the setting `study.report`, and `changes` has the settings in which each cell differs, in words. A
    comparison is not written while fewer than two cells have logged a step.
    """
    with recorded_values(target.parent):
        cells = read_cells(places)
        started = [cell.training for cell in cells if cell.training]
        if kind == "albert":
            write_text(target, albert_page(cells, target.resolve().parent.name, changes))
        elif len(started) > 1:
            write_text(target, comparison_page(started, list(_remarks(cells))))


def _remarks(cells: Sequence[CellRun]) -> Iterator[str]:
    for cell in cells:
        if cell.failure is not None:
            yield f"{cell.name}, seed {cell.seed}, failed: {cell.failure}"
    waiting = [f"{cell.name}-seed{cell.seed}" for cell in cells if cell.training is None and cell.failure is None]
    if waiting:
        yield f"Not started: {', '.join(waiting)}."
