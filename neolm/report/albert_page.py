"""The page of the study `reproduce-albert`: the claims of the ALBERT paper next to what its cells show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any

from neolm.core.progress import count
from neolm.report.albert_claims import (
    ACCURACY,
    BERT,
    CLAIMS,
    EQUAL_TIME,
    LOSS,
    MEMORY,
    NOT_REPRODUCED,
    NSP,
    PARAMETERS,
    SOP,
    SPEED,
    TABLES,
    WIDE_SHORT,
    PaperTable,
)
from neolm.report.chart import Line, Point, line_chart
from neolm.report.claims import Measure, find, mean_of
from neolm.report.pages import Figure, data_size, render
from neolm.report.study_cells import CellRun, loss_at

Cells = Sequence[CellRun]
ByCell = Mapping[str, Mapping[str, Mapping[int, float]]]

COLUMNS = (PARAMETERS, MEMORY, SPEED, LOSS, ACCURACY, NSP, SOP)
TABLE_COLUMNS: Mapping[int, tuple[Measure, ...]] = {
    2: (PARAMETERS, MEMORY, SPEED, LOSS),
    5: (LOSS, ACCURACY, NSP, SOP),
    6: (PARAMETERS, SPEED, EQUAL_TIME),
}
LITTLE = 0.1  # nats below the unigram entropy: a model with such a loss has learnt little
NONE = "\u2013"
CLASSES = {"holds": "holds", "does not hold": "fails", "cannot be told": "open", "not measured": "open"}


def albert_page(cells: Cells, name: str, differing: Mapping[str, str]) -> str:
    """The whole page. `differing` has the settings in which each cell differs from the recipe, in words."""
    values = measured(cells)
    errors = _by_cell((cell, cell.errors) for cell in cells)
    unlearnt = [cell for cell in cells if cell.values and _has_learnt_little(cell)]
    findings = [find(claim, values, errors, {cell.name for cell in unlearnt}) for claim in CLAIMS]
    verdicts = Counter(finding.verdict for finding in findings)
    return render(
        "albert_study.html",
        name=name,
        cells=cells,
        seeds=sorted({cell.seed for cell in cells}),
        findings=findings,
        verdicts=verdicts,
        classes=CLASSES,
        tables=[_table(table, values, errors, cells) for table in TABLES],
        not_reproduced=NOT_REPRODUCED,
        states=list(_states(cells, differing)),
        facts=_facts(cells),
        unlearnt=[f"{cell.name} (seed {cell.seed})" for cell in unlearnt],
        everything=_everything(cells, values, errors),
        headers=[measure.name for measure in COLUMNS],
    )


def measured(cells: Cells) -> dict[str, dict[str, dict[int, float]]]:
    """Values by cell, measure and seed, of the finished cells."""
    found = _by_cell((cell, cell.values) for cell in cells)
    for name, losses in _equal_times(cells).items():
        found.setdefault(name, {})[EQUAL_TIME.key] = losses
    return found


def _by_cell(numbers: Iterable[tuple[CellRun, Mapping[str, float]]]) -> dict[str, dict[str, dict[int, float]]]:
    found: dict[str, dict[str, dict[int, float]]] = {}
    for cell, values in numbers:
        for key, value in values.items():
            found.setdefault(cell.name, {}).setdefault(key, {})[cell.seed] = value
    return found


def _equal_times(cells: Cells) -> dict[str, dict[int, float]]:
    """The losses of the two cells of table 6 by seed, at the time at which the first of them was finished."""
    pairs = {(cell.name, cell.seed): cell for cell in cells if cell.values}
    found: dict[str, dict[int, float]] = {}
    for seed in {seed for _, seed in pairs}:
        both = [pairs.get((name, seed)) for name in (BERT, WIDE_SHORT)]
        curves = [cell.masked_loss("seconds") for cell in both if cell]
        if len(curves) < 2 or not all(curves):
            continue
        time = min(curve[-1][0] for curve in curves)
        losses = [loss_at(curve, time) for curve in curves]
        if None not in losses:
            for name, loss in zip((BERT, WIDE_SHORT), losses, strict=True):
                found.setdefault(name, {})[seed] = float(loss or 0)
    return found


def written(measure: Measure, cell: str, values: ByCell, errors: ByCell) -> tuple[str, str]:
    """The mean over the seeds, and its interval or the reason why there is none."""
    found = list(values.get(cell, {}).get(measure.key, {}).values())
    if not found:
        return NONE, ""
    words = {PARAMETERS.key: count, MEMORY.key: data_size, SPEED.key: count}.get(measure.key, measure.written)
    halves = list(errors.get(cell, {}).get(measure.key, {}).values()) if measure.sampled else []
    mean = mean_of(found, measure.exact, fmean(halves) if halves else 0.0)
    if measure.exact:
        return words(mean.value), ""
    if mean.low is None or mean.high is None:
        return words(mean.value), "one seed" if len(found) == 1 else "the same with all seeds"
    low, high = max(0.0, mean.low), min(1.0, mean.high) if measure.percent else mean.high  # of what is possible
    return words(mean.value), f"{words(low)} to {words(high)}"


def _table(table: PaperTable, values: ByCell, errors: ByCell, cells: Cells) -> dict[str, Any]:
    """A table of the paper: its rows here and the curves."""
    columns = TABLE_COLUMNS.get(table.number, (PARAMETERS, LOSS, ACCURACY))
    rows = [
        [
            (label, name),
            *(written(measure, name, values, errors) for measure in columns),
            (score, model),
        ]
        for name, label, model, score in table.rows
    ]
    axis, unit = ("seconds", "minutes of training") if table.number == 6 else ("step", "step")
    lines = [Line(label, mean_curve(_curves(cells, name, axis), axis), dots=True) for name, label, _, _ in table.rows]
    figure = Figure(lambda width: line_chart(lines, unit, "masked loss, nats", width, 280, zero_x=True))
    return {
        "number": table.number,
        "title": table.title,
        "text": table.text,
        "headers": ["", *(measure.name for measure in columns), "Paper"],
        "rows": rows,
        "figure": figure if any(line.points for line in lines) else None,
    }


def _curves(cells: Cells, name: str, axis: str) -> list[list[Point]]:
    """The curves of a cell's finished trainings, or of all if none is finished."""
    runs = [cell for cell in cells if cell.name == name]
    return [cell.masked_loss(axis) for cell in [run for run in runs if run.values] or runs]


def mean_curve(curves: Sequence[Sequence[Point]], axis: str = "step") -> list[Point]:
    """The mean of curves with points at the same validations; as long as the shortest. Seconds become minutes."""
    curves = [curve for curve in curves if curve]
    unit = 60.0 if axis == "seconds" else 1.0
    mean = [tuple(map(sum, zip(*together, strict=True))) for together in zip(*curves, strict=False)]
    return [(x / len(curves) / unit, y / len(curves)) for x, y in mean]


def _states(cells: Cells, differing: Mapping[str, str]) -> Iterator[list[Any]]:
    """A row for each cell: its settings, and the state of each seed."""
    for name, runs in groupby(sorted(cells, key=lambda cell: list(differing).index(cell.name)), lambda c: c.name):
        states = [(run.seed, run.state) for run in runs]
        same = len({state for _, state in states}) == 1
        words = states[0][1] if same else "; ".join(f"seed {seed}: {state}" for seed, state in states)
        yield [name, differing[name] or "the recipe itself", words]


def _has_learnt_little(cell: CellRun) -> bool:
    return cell.values["masked_gain"] < LITTLE


def _facts(cells: Cells) -> dict[str, Any]:
    finished = [cell for cell in cells if cell.values]
    return {
        "entropy": max((cell.values["unigram_entropy"] for cell in finished), default=0.0),
        "finished": len(finished),
        "seconds": sum(cell.values.get("seconds", 0) for cell in finished),
        "tokens": max((cell.values.get("tokens", 0) for cell in finished), default=0),
        "failed": sum(cell.failure is not None for cell in cells),
    }


def _everything(cells: Cells, values: ByCell, errors: ByCell) -> list[list[Any]]:
    """All measures of all cells, a row for each."""
    names = dict.fromkeys(cell.name for cell in cells)
    return [[name, *(written(measure, name, values, errors) for measure in COLUMNS)] for name in names]
