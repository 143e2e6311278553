"""Figures of a training: losses, speed and stability over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from neolm.core.metrics import points
from neolm.core.progress import count
from neolm.report.chart import Line, Marks, Point, line_chart
from neolm.report.pages import HALF, Figure, plural
from neolm.report.run_files import Run

HEIGHT, PHONE_HEIGHT, SMALL_HEIGHT = 320, 280, 240


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

    def draw(width: int) -> str:
        return line_chart(lines, "step", label, width, HEIGHT if width > 500 else PHONE_HEIGHT, zero_x=zero_x)

    return Figure(draw)


def small_figure(
    lines: Sequence[Line],
    label: str,
    caption: str = "",
    x_label: str = "step",
    zero_y: bool = True,
    marks: Marks | None = None,
) -> Figure:
    """A picture over half of the width of the page, without the names of the lines."""

    def draw(width: int) -> str:
        zeros = {"zero_x": True, "zero_y": zero_y}
        return line_chart(lines, x_label, label, width, SMALL_HEIGHT, **zeros, legend=False, marks=marks)

    return Figure(draw, caption, HALF)


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
    captions = {
        THROUGHPUT: _throughput(run),
        GRADIENT_NORM: _gradient_norm(run),
        LEARNING_RATE: f"The maximum is {max((rate for _, rate in LEARNING_RATE.points(run.metrics)), default=0):g}.",
        MEMORY: "The highest memory use so far.",
    }
    return [_figure(run, curve, captions[curve]) for curve in CURVES if curve.points(run.metrics)]


def _figure(run: Run, curve: Curve, caption: str) -> Figure:
    line = Line(curve.label, curve.points(run.metrics), smooth=curve.smooth)
    skipped = Marks("skipped", [step for step, _ in _skipped(run)]) if curve is GRADIENT_NORM else None
    return small_figure([line], curve.label, caption, marks=skipped)


def _throughput(run: Run) -> str:
    speeds = [speed for _, speed in THROUGHPUT.points(run.metrics)]
    return f"The median is {count(median(speeds))}." if speeds else ""


def _gradient_norm(run: Run) -> str:
    clip = run.config("pretrain").get("pretrain", {}).get("gradient_clip")
    text = f"Before clipping (to {clip:g})." if clip else ""
    skipped = _skipped(run)
    if not skipped:
        return f"{text} No step was skipped.".strip()
    verb, place = ("was", "at the vertical line") if len(skipped) == 1 else ("were", "at the vertical lines")
    step, reason = skipped[0]
    first = reason if len(skipped) == 1 else f"the first, step {step:,.0f}: {reason}"
    return f"{text} {plural(len(skipped), 'step')} {verb} skipped, {place} ({first}).".strip()


def _skipped(run: Run) -> list[tuple[float, str]]:
    """`(step, reason)` of the steps whose gradient was not applied."""
    return [(row["step"], row["skipped"]) for row in run.metrics if isinstance(row.get("skipped"), str)]
