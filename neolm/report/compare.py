"""`neolm compare`: several runs side by side, on the terminal and on a page."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from neolm.core.errors import InputError
from neolm.core.files import write_text
from neolm.core.metrics import points
from neolm.core.progress import table
from neolm.report.bars import Bar, bar_chart
from neolm.report.chart import Line, Point
from neolm.report.curves import CURVES, Curve, large_figure, small_figure
from neolm.report.measures import comparable_losses, comparable_scores, differing_settings, measured, notes
from neolm.report.pages import GENERATOR, Figure, render
from neolm.report.svg import swatch
from neolm.report.training_run import TrainingRun, read_training_runs

Runs = Sequence[TrainingRun]

LOSSES = {"loss": "training loss", "validation_loss": "validation loss"}
MINUTES, HOURS = 60.0, 3600.0  # in seconds


def compare_runs(places: Sequence[Path], output: Path) -> str:
    """Write the page to `output` and return the text to print: numbers, settings that differ, path of the page.

    Raises:
        InputError: see `read_training_runs`; or `output` exists and is not such a page, or cannot be written.
    """
    _refuse_foreign(output)
    runs = read_training_runs(places)
    try:
        write_text(output, comparison_page(runs))
    except FileNotFoundError:  # on a file system such as /proc
        raise InputError(f"--output: {output} cannot be written") from None
    numbers = [(name, *(" ".join(filter(None, cell)) for cell in cells)) for name, cells in measured(runs)]
    head = ("", *(run.name for run in runs))
    return "\n\n".join([_side_by_side([head, *numbers]), _settings(runs), *notes(runs), str(output)])


def _settings(runs: Runs) -> str:
    found = differing_settings(runs)
    if not found:
        return "The settings and inputs are the same."
    head = ("SETTINGS THAT DIFFER", *(run.name for run in runs))
    return _side_by_side([head, *((key, *values) for key, values in found)])


def _side_by_side(rows: Sequence[tuple[str, ...]]) -> str:
    """A table, or several below one another if it is wider than the terminal, each with the first column."""
    room = shutil.get_terminal_size((160, 24)).columns
    widths = [2 + max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    groups, used = [[1]], widths[0] + widths[1]
    for column in range(2, len(widths)):
        used += widths[column]
        if used > room + 2:  # the last column has no gap after it
            groups.append([])
            used = widths[0] + widths[column]
        groups[-1].append(column)
    return "\n\n".join(table([(row[0], *(row[c] for c in group)) for row in rows]) for group in groups)


def _refuse_foreign(output: Path) -> None:
    if output.is_dir():
        raise InputError(f"--output: {output} is a directory. Give a file such as {output / 'compare.html'}")
    if not output.parent.is_dir():
        raise InputError(f"--output: {output.parent}: no such directory")
    if output.exists():
        with output.open(encoding="utf-8", errors="replace") as file:
            start = file.read(1000)
        if f'name="generator" content="{GENERATOR} ' not in start:
            raise InputError(
                f"--output: {output} is not a page written by NeoLM and was not changed. Give another file"
            )


def comparison_page(runs: Runs) -> str:
    """The whole page."""
    logged = {key: name for key, name in LOSSES.items() if any(points(run.metrics, key) for run in runs)}
    return render(
        "compare.html",
        names=[run.name for run in runs],
        headers=[Markup(swatch(number)) + " " + run.name for number, run in enumerate(runs)],
        best=_best(runs),
        comparable=comparable_losses(runs),
        notes=notes(runs),
        numbers=[[name, *values] for name, values in measured(runs)],
        scores=_scores(runs),
        losses=[_large(runs, key, f"{name}, nats per token") for key, name in logged.items()],
        small_losses=[_small(runs, key, name, *axis) for axis in _axes(runs) for key, name in logged.items()],
        stability=[_curve(runs, curve) for curve in CURVES if any(curve.points(run.metrics) for run in runs)],
        settings=[[key, *values] for key, values in differing_settings(runs)],
    )


def _best(runs: Runs) -> list[tuple[str, str]]:
    """The names of the best runs and what they are best in, as far as the runs are comparable."""
    found = []
    losses = [(run.best[1], run.name, run.best[0]) for run in runs if run.best]
    if len(losses) > 1 and comparable_losses(runs):
        loss, name, step = min(losses)
        found.append((name, f"has the lowest validation loss: {loss:.3f}, at step {step:,.0f}."))
    scores = [(run.bits_per_byte.value, run.name) for run in runs if run.bits_per_byte]
    if len(scores) > 1 and comparable_scores(runs):
        bits, name = min(scores)
        found.append((name, f"needs the fewest bits per byte of held-out text: {bits:.3f}."))
    return found


def _scores(runs: Runs) -> Figure | None:
    """Bars of bits per byte, if at least two are comparable."""
    bars = [
        Bar(run.name, score.value, f"{score.value:.3f}", score.interval, tone=number)
        for number, run in enumerate(runs)
        if (score := run.bits_per_byte)
    ]
    if len(bars) < 2 or not comparable_scores(runs):
        return None
    title = "Bits per byte of the same held-out text; fewer are better"
    return Figure(lambda width: bar_chart(bars, title, width), f"{title}. The whiskers are confidence intervals.")


def _large(runs: Runs, key: str, label: str) -> Figure:
    return large_figure([_line(run, key, points(run.metrics, key)) for run in runs], label, zero_x=True)


def _small(runs: Runs, key: str, name: str, axis: str, label: str, unit: float) -> Figure:
    lines = [_line(run, key, [(x / unit, y) for x, y in run.by(key, axis)]) for run in runs]
    return small_figure(lines, name, x_label=label)


def _line(run: TrainingRun, key: str, found: Sequence[Point]) -> Line:
    """The line of a run: the moving average of training losses, dots for validation losses."""
    few = key == "validation_loss"
    return Line(run.name, found, smooth=not few, dots=few, raw=False)


def _axes(runs: Runs) -> list[tuple[str, str, float]]:
    """`(axis, label, unit)` of the other horizontal axes: time, and tokens if they are not proportional to steps."""
    tokens_per_step = [run.tokens / run.steps for run in runs if run.tokens and run.steps]
    longest = max((run.seconds or 0.0 for run in runs), default=0.0)
    units = ((HOURS, "hours"), (MINUTES, "minutes"))
    unit, name = next((u for u in units if longest > 2 * u[0]), (1.0, "seconds"))
    differ = tokens_per_step and max(tokens_per_step) > 1.01 * min(tokens_per_step)
    axes = [("tokens", "tokens", 1.0)] if differ else []
    return [*axes, ("seconds", f"{name} of training", unit)] if longest else axes


def _curve(runs: Runs, curve: Curve) -> Figure:
    lines = [Line(run.name, curve.points(run.metrics), smooth=curve.smooth, raw=False) for run in runs]
    return small_figure(lines, curve.label, zero_y=True)
