"""Small curves of a training's speed and stability, side by side where there is room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neolm.core.metrics import points
from neolm.report.chart import Line, Marks, Point, line_chart
from neolm.report.figure import HALF, figure
from neolm.report.markup import Html, Node, element


@dataclass(frozen=True)
class Curve:
    """A key of `metrics.jsonl` that is drawn over the steps."""

    key: str
    label: str
    smooth: bool = False
    unit: float = 1.0
    """What the values are divided by."""

    def points(self, rows: Sequence[Mapping[str, Any]]) -> list[Point]:
        """The rows that have it, in the unit of the label."""
        return [(step, value / self.unit) for step, value in points(rows, self.key)]


THROUGHPUT = Curve("tokens_per_second", "tokens a second", smooth=True)
GRADIENT_NORM = Curve("grad_norm", "gradient norm", smooth=True)
LEARNING_RATE = Curve("learning_rate", "learning rate")
MEMORY = Curve("memory_bytes", "peak memory, GiB", unit=2**30)


def small_figure(
    lines: Sequence[Line],
    label: str,
    *caption: Node,
    x_label: str = "step",
    zero_y: bool = True,
    marks: Marks | None = None,
) -> Html:
    """A picture of half the page's width, or a phone's, with the caption below."""

    def draw(width: int) -> str:
        zeros = {"zero_x": True, "zero_y": zero_y}
        return line_chart(lines, x_label, label, width, 240, **zeros, legend=False, marks=marks)

    return figure(draw, *caption, wide=HALF)


def charts(*figures: Node) -> Html:
    """The pictures in two columns, on a phone in one."""
    return element("div", *figures, class_="charts")
