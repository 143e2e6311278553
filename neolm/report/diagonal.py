"""Points beside the diagonal on which both axes are equal: reliability diagrams, and gold and predicted numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neolm.report.chart import axes, nice_ticks
from neolm.report.svg import NARROW, picture, scale, text, toned

SQUARE = 420  # pixels; a wider picture has no larger frame


@dataclass(frozen=True)
class Spot:
    """A point at (x, y)."""

    x: float
    y: float
    interval: tuple[float, float] | None = None
    """A confidence interval of y, drawn as a whisker."""
    radius: float = 4.0


def diagonal_chart(
    spots: Sequence[Spot],
    x_label: str,
    y_label: str,
    description: str,
    bounds: tuple[float, float] | None = None,
    width: int = SQUARE,
) -> str:
    """The points over axes with the same range, with the diagonal, as an SVG.

    Args:
        spots: The points; all values are finite.
        x_label: What the x axis has.
        y_label: What the y axis has.
        description: The picture in words, for screen readers.
        bounds: Range of both axes; None: that of the values.
        width: In pixels.
    """
    values = [value for spot in spots for value in (spot.x, spot.y, *(spot.interval or ()))] or [0.0, 1.0]
    low, high = bounds or (min(values), max(values))
    ticks = nice_ticks(low, high, 5 if width >= NARROW else 4)
    height = min(width, SQUARE) - 40.0
    frame = (46.0, 30.0, width - 18.0, height - 42.0)
    to_x = scale(ticks[0], ticks[-1], frame[0], frame[2])
    to_y = scale(ticks[0], ticks[-1], frame[3], frame[1])
    parts = [*axes(ticks, ticks, to_x, to_y, frame), text(10, 18, y_label, style="muted")]
    parts.append(text(frame[2], height - 8, x_label, "end", "muted"))
    parts.append(f'<path class="diagonal" d="M{frame[0]:.1f} {frame[3]:.1f}L{frame[2]:.1f} {frame[1]:.1f}"/>')
    drawn = []
    for spot in spots:
        x, y = to_x(spot.x), to_y(spot.y)
        if spot.interval:
            bottom, top = map(to_y, spot.interval)
            drawn.append(f'<path class="mark" d="M{x:.1f} {bottom:.1f}V{top:.1f}"/>')
        drawn.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{spot.radius:.1f}"/>')
    parts.append(toned(0, *drawn))
    return picture(width, height, f"{y_label} by {x_label}", description or "There are no points to draw.", parts)
