"""`neolm compare`: several runs side by side, on the terminal and on a page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from neolm.core.energy import how_known
from neolm.core.files import check_output_file, differences_among, write_text
from neolm.core.manifest import recorded_values
from neolm.core.metrics import points
from neolm.core.progress import count, duration, table
from neolm.report.chart import Bar, Line, Point, bar_chart
from neolm.report.curves import CURVES, Curve, large_figure, small_figure
from neolm.report.pages import GENERATOR, Figure, energy_amount, render
from neolm.report.run_files import score_protocol
from neolm.report.svg import swatch
from neolm.report.training_run import TrainingRun, read_training_runs

Runs = Sequence[TrainingRun]

LOSSES = {"loss": "training loss", "validation_loss": "validation loss"}
MASKED_LOSSES = {
    "masked_tokens_loss": "training loss of masked tokens",
    "validation_masked_tokens_loss": "validation loss of masked tokens",
}
"""Of encoders, whose loss is the sum of this one and that of the sentence task."""
NONE = "\u2013"
MINUTES, HOURS = 60.0, 3600.0  # in seconds


def compare_runs(places: Sequence[Path], output: Path) -> str:
    """Write the page to `output` and return the text to print: numbers, settings that differ, path of the page.

    Raises:
        InputError: see `read_training_runs`; or `output` exists and is not such a page, or cannot be written.
    """
    check_output_file(output, "compare.html", "a page written by NeoLM", f'name="generator" content="{GENERATOR} ')
    with recorded_values(places[0]):
        runs = read_training_runs(places)
        write_text(output, comparison_page(runs))
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


def comparison_page(runs: Runs, remarks: Sequence[str] = ()) -> str:
    """The whole page. `remarks` stand at its top."""
    losses = MASKED_LOSSES if all(points(run.metrics, "masked_tokens_loss") for run in runs) else LOSSES
    logged = {key: name for key, name in losses.items() if any(points(run.metrics, key) for run in runs)}
    return render(
        "compare.html",
        names=[run.name for run in runs],
        headers=[Markup(swatch(number)) + " " + run.name for number, run in enumerate(runs)],
        best=_best(runs),
        comparable=comparable_losses(runs),
        notes=[*remarks, *notes(runs)],
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
    few = key.startswith("validation_")
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


@dataclass(frozen=True)
class Measure:
    """A row of the table: its name, the value of a run, and a remark of a word or two."""

    name: str
    value: Callable[[TrainingRun], str]
    remark: Callable[[TrainingRun], str] = lambda run: ""
    optional: bool = False
    """Left out if no run has it."""


def _optional(value: float | None, words: Callable[[float], str] = "{:.4f}".format) -> str:
    return NONE if value is None else words(value)


def _unfinished(run: TrainingRun) -> str:
    if run.manifest is not None:
        return ""
    planned = run.settings.get("pretrain", {}).get("steps")
    return f"of {planned:,}, not finished" if planned else "not finished"


def _kwh(run: TrainingRun) -> float | None:
    return run.manifest.energy.get("kwh") if run.manifest else None


def _energy_known(run: TrainingRun) -> str:
    if run.manifest is None or _kwh(run) is None:
        return ""
    known = how_known([str(run.manifest.energy.get("method", ""))])
    return "estimate" if known.startswith("an estimate") else known.partition(",")[0]


def _accuracy(run: TrainingRun, term: str) -> str:
    share = run.last(f"validation_{term}_accuracy")
    return "" if share is None else f"{share:.1%} right"


def _interval(run: TrainingRun) -> str:
    score = run.bits_per_byte
    return f"({score.interval[0]:.3f} to {score.interval[1]:.3f})" if score and score.interval else ""


BITS_PER_BYTE = Measure(
    "Bits per byte", lambda run: f"{run.bits_per_byte.value:.3f}" if run.bits_per_byte else NONE, _interval
)
MEASURES = (
    Measure("Steps", lambda run: f"{run.steps:,}", _unfinished),
    Measure(
        "Best validation loss",
        lambda run: _optional(run.best[1] if run.best else None),
        lambda run: f"at step {run.best[0]:,.0f}" if run.best else "",
    ),
    Measure("Final validation loss", lambda run: _optional(run.validation[-1][1] if run.validation else None)),
    Measure("Training loss", lambda run: _optional(run.training_loss)),
    Measure(
        "Final loss of masked tokens",
        lambda run: _optional(run.last("validation_masked_tokens_loss")),
        lambda run: _accuracy(run, "masked_tokens"),
        optional=True,
    ),
    Measure(
        "Final loss of the sentence task",
        lambda run: _optional(run.last("validation_sentence_loss")),
        lambda run: _accuracy(run, "sentence"),
        optional=True,
    ),
    BITS_PER_BYTE,
    Measure("Tokens", lambda run: _optional(run.tokens, count)),
    Measure("Tokens per second", lambda run: _optional(run.usual("tokens_per_second"), count)),
    Measure("MFU", lambda run: _optional(run.usual("mfu"), "{:.1%}".format)),
    Measure("Time", lambda run: _optional(run.seconds, duration)),
    Measure("Energy", lambda run: _optional(_kwh(run), energy_amount), _energy_known),
    Measure("Parameters", lambda run: _optional(run.parameters, count)),
)


def measured(runs: Runs) -> list[tuple[str, list[tuple[str, str]]]]:
    """The name of each measure with the (value, remark) of each run. Bits per byte only if they are comparable."""
    measures = [measure for measure in MEASURES if measure is not BITS_PER_BYTE or comparable_scores(runs)]
    rows = [(measure, [(measure.value(run), measure.remark(run)) for run in runs]) for measure in measures]
    return [
        (measure.name, cells)
        for measure, cells in rows
        if not measure.optional or any(value != NONE for value, _ in cells)
    ]


def differing_settings(runs: Runs) -> list[tuple[str, list[str]]]:
    """`(key, its value in each run)` of every setting and input digest that is not the same in all runs."""
    found = differences_among([run.settings for run in runs])
    return [(key, [_shown(value) for value in values]) for key, values in found]


def comparable_scores(runs: Runs) -> bool:
    """Whether there are bits per byte, all of them measured on the same text."""
    return len(_measured_texts(runs)) == 1


def comparable_losses(runs: Runs) -> bool:
    """Whether a token of one run is a token of the others."""
    return not _differ(runs, "tokenizer")


def notes(runs: Runs) -> list[str]:
    """Remarks on how far these runs can be compared."""
    texts, found = _measured_texts(runs), []
    if not comparable_losses(runs):
        found.append("These runs have different tokenizers, so their losses per token are not comparable.")
    elif _differ(runs, "shards"):
        found.append("These runs were trained on different text, so their losses are only roughly comparable.")
    if len(texts) > 1:
        found.append("Bits per byte are not shown, because these runs were evaluated on different held-out text.")
    if found and len(texts) != 1:
        found.append("To compare bits per byte, measure each run on the same text: neolm evaluate RUN --text TEXT")
    return found


def _measured_texts(runs: Runs) -> set[str]:
    return {str(score_protocol(run.scores).get("data", {}).get("digest")) for run in runs if run.bits_per_byte}


def _differ(runs: Runs, name: str) -> bool:
    return len({run.settings["inputs"].get(name) for run in runs}) > 1


def _shown(value: Any) -> str:
    """A value as a recipe would have it; `none` for null and for a key that the run does not have."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
