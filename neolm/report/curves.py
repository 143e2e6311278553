"""Figures of a training: losses, speed and stability over the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from neolm.core.metrics import points
from neolm.core.progress import count
from neolm.report.chart import Line, Marks, Point, line_chart
from neolm.report.pages import HALF, Figure, plural
from neolm.report.run_files import Run


@dataclass(frozen=True)
class Curve:
    """A key of `metrics.jsonl` that is drawn over the steps."""

    key: str
    label: str
    smooth: bool = False
    unit: float = 1.0
    """What the values are divided by."""

    def points(self, rows: Sequence[Mapping[str, Any]]) -> list[Point]:
        """The rows that have this key, in the unit of the label."""
        return [(step, value / self.unit) for step, value in points(rows, self.key)]


THROUGHPUT = Curve("tokens_per_second", "tokens per second", smooth=True)
GRADIENT_NORM = Curve("grad_norm", "gradient norm", smooth=True)
LEARNING_RATE = Curve("learning_rate", "learning rate")
MEMORY = Curve("memory_bytes", "peak memory, GiB", unit=2**30)
CURVES = (THROUGHPUT, GRADIENT_NORM, LEARNING_RATE, MEMORY)


def large_figure(lines: Sequence[Line], label: str, zero_x: bool = False) -> Figure:
    """A picture over the width of the page."""
    return Figure(lambda width: line_chart(lines, "step", label, width, 320 if width > 500 else 280, zero_x))


def small_figure(lines: Sequence[Line], label: str, caption: str = "", x_label: str = "step", **options: Any) -> Figure:
    """A picture over half of the width of the page, without the names of the lines; `options` as in `line_chart`."""
    options |= {"height": 240, "zero_x": True, "legend": False}
    return Figure(lambda width: line_chart(lines, x_label, label, width, **options), caption, HALF)


def loss_figure(run: Run) -> Figure | None:
    """Training and validation loss of a run; None if nothing was logged."""
    lines = [
        Line("training", points(run.metrics, "loss"), smooth=True),
        Line("validation", points(run.metrics, "validation_loss"), dots=True),
    ]
    lines = [line for line in lines if line.points]
    return large_figure(lines, "loss, nats per token") if lines else None


def stability_figures(run: Run) -> list[Figure]:
    """Throughput, gradient norm, learning rate and memory of a run, each with a caption; only what was logged."""
    # (step, reason) of the steps whose gradient was not applied
    skipped = [(row["step"], row["skipped"]) for row in run.metrics if isinstance(row.get("skipped"), str)]
    captions: dict[Curve, Callable[[list[float]], str]] = {
        THROUGHPUT: lambda values: f"The median is {count(median(values))}.",
        GRADIENT_NORM: lambda values: _gradient_norm(run, skipped),
        LEARNING_RATE: lambda values: f"The maximum is {max(values):g}.",
        MEMORY: lambda values: "The highest memory use so far.",
    }
    figures = []
    for curve in CURVES:
        found = curve.points(run.metrics)
        if found:
            line = Line(curve.label, found, smooth=curve.smooth)
            marks = Marks("skipped", [step for step, _ in skipped]) if curve is GRADIENT_NORM else None
            caption = captions[curve]([value for _, value in found])
            figures.append(small_figure([line], curve.label, caption, zero_y=True, marks=marks))
    return figures


def _gradient_norm(run: Run, skipped: Sequence[tuple[float, str]]) -> str:
    clip = run.config("pretrain").get("pretrain", {}).get("gradient_clip")
    text = f"Before clipping (to {clip:g})." if clip else ""
    if not skipped:
        return f"{text} No step was skipped.".strip()
    verb, place = ("was", "at the vertical line") if len(skipped) == 1 else ("were", "at the vertical lines")
    step, reason = skipped[0]
    first = reason if len(skipped) == 1 else f"the first, step {step:,.0f}: {reason}"
    return f"{text} {plural(len(skipped), 'step')} {verb} skipped, {place} ({first}).".strip()
