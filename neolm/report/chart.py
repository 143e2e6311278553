"""Line charts and horizontal bars as SVG pictures, drawn without a plotting library and without interaction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from neolm.report.svg import CHARACTER, NARROW, TONES, Scale, clipped, picture, scale, shown, text, toned

Point = tuple[float, float]
Frame = tuple[float, float, float, float]  # left, top, right, bottom

LARGEST = 1e300  # beyond it, differences of values would overflow
SLACK = 1e-9  # of a step: a rounding error must not add or remove a tick
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Line:
    """One series of (x, y) points; values that are not finite are left out."""

    name: str
    points: Sequence[Point]
    smooth: bool = False
    """Draw the raw values faint and an exponential average of them strong."""
    raw: bool = True
    """Draw the raw values; with several lines, the averages are enough."""
    dots: bool = False
    """Mark each point, for series with few of them."""


@dataclass(frozen=True)
class Marks:
    """Places on the x axis at which something happened."""

    name: str
    places: Sequence[float]


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    width: int = 720,
    height: int = 320,
    zero_x: bool = False,
    zero_y: bool = False,
    legend: bool = True,
    marks: Marks | None = None,
    last: bool = True,
) -> str:
    """Return the lines over a common pair of axes as an SVG. A few extreme values may be cut off, with a note.

    The colour of a line depends on its index only, even if others have no points. `zero_x` and `zero_y` include the 0
    of an axis, `legend` shows the names of the lines, and `marks` are thin vertical lines in the next colour. `last`
    adds the last value of each line and the number of marks to the legend.
    """
    lines = [
        replace(line, points=[(x, y) for x, y in line.points if abs(x) < LARGEST and abs(y) < LARGEST])
        for line in lines
    ]
    values = [y for line in lines for _, y in line.points]
    low, high = _robust_range(values)
    y_ticks = nice_ticks(min(low, 0.0) if zero_y else low, high, 5)
    names, names_height = _legend(lines, marks, legend, y_label, width, last)
    left = 16 + CHARACTER * max(len(tick_label(tick, y_ticks)) for tick in y_ticks)
    frame = (left, 14.0 + names_height, width - 18.0, height - 40.0)
    places = list(marks.places) if marks else []
    xs = [x for line in lines for x, _ in line.points] + places
    x_ticks, to_x = _x_axis([0.0, *xs] if zero_x and xs else xs, frame)
    to_y = scale(y_ticks[0], y_ticks[-1], frame[3], frame[1])

    parts = [names, *axes(x_ticks, y_ticks, to_x, to_y, frame), text(frame[2], height - 8, x_label, "end", "muted")]
    if places:
        columns = sorted({round(to_x(place)) for place in places})  # one stroke per column of pixels
        path = "".join(f"M{x}.0 {frame[1]:.1f}V{frame[3]:.1f}" for x in columns)
        parts.append(toned(len(lines), f'<path class="mark" d="{path}"/>'))
    parts += [_drawn_line(line, number, to_x, to_y, frame) for number, line in enumerate(lines)]
    if not values:
        middle = (frame[0] + frame[2]) / 2, (frame[1] + frame[3]) / 2
        parts.append(text(*middle, "nothing logged yet", "middle", "muted"))
    elif max(values) > y_ticks[-1]:
        parts.append(text(frame[2], frame[1] + 12, f"\u2191 highest value {shown(max(values))}", "end", "muted"))
    ends = [f"{line.name} ends at {_last(line)}" for line in lines if line.points]
    ends += [f"{marks.name}: {len(places)}"] if marks and places else []
    title = f"{' and '.join(line.name for line in lines)}: {y_label} by {x_label}"
    return picture(width, height, title, ", ".join(ends) or "There are no points to draw.", parts)


def smoothed(values: Sequence[float], span: float) -> list[float]:
    """The exponential average over about the last `span` values; over fewer at the start, where a curve is steep."""
    found, average = [], values[0] if values else 0.0
    for number, value in enumerate(values):
        average += (value - average) / max(1.0, min(span, number / 8))
        found.append(average)
    return found


def steady(values: Sequence[float]) -> list[float]:
    """The average that a smooth line is drawn with: over a fiftieth of its values, and at most 200."""
    return smoothed(values, min(len(values) / 50, 200))


def thinned(points: Sequence[Point], column: float = 2.0) -> list[Point]:
    """Keep the first, lowest, highest and last point of each column of pixels; the picture looks the same."""
    kept: list[Point] = []
    columns: dict[int, list[Point]] = {}
    for point in points:
        columns.setdefault(int(point[0] / column), []).append(point)
    for group in columns.values():
        marks = [group[0], min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1]), group[-1]]
        kept += sorted(dict.fromkeys(marks), key=lambda p: p[0])
    return kept


def _robust_range(values: Sequence[float]) -> Point:
    """The range to show: all values, unless a few are so high that the rest would look flat."""
    if not values:
        return 0.0, 1.0
    ordered = sorted(values)
    low, high, usual = ordered[0], ordered[-1], ordered[int((len(ordered) - 1) * 0.97)]
    outlying = len(values) >= 8 and high - low > 10 * (usual - low) > 0
    return low, usual + 2 * (usual - low) if outlying else high


def _x_axis(xs: Sequence[float], frame: Frame) -> tuple[list[float], Scale]:
    low, high = (min(xs), max(xs)) if xs else (1.0, 10.0)
    low = 0.0 if 0 <= low <= 0.1 * high or low == high > 0 else low
    high = high if high > low else low + 1
    ticks = [tick for tick in nice_ticks(low, high, 7 if frame[2] > NARROW else 4) if low <= tick <= high]
    return ticks or [low, high], scale(low, high, frame[0], frame[2])


def axes(x_ticks: Sequence[float], y_ticks: Sequence[float], to_x: Scale, to_y: Scale, frame: Frame) -> list[str]:
    """Horizontal lines and labels at the ticks of the y axis, and small marks and labels at those of the x axis."""
    (left, _, right, bottom), parts = frame, []
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(text(left - 8, y + 4, tick_label(tick, y_ticks), "end", "muted"))
    for tick in x_ticks:
        x = to_x(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom:.1f}v5"/>')
        parts.append(text(x, bottom + 18, tick_label(tick, x_ticks), "middle", "muted"))
    return parts


def _legend(
    lines: Sequence[Line], marks: Marks | None, names: bool, y_label: str, width: float, last: bool
) -> tuple[str, float]:
    """The label of the y axis, the lines with their last values (if `names`) and the marks, wrapped; and the height."""
    found = []
    for number, line in enumerate(lines if names else []):
        if line.points:
            dot = '<circle class="dot" cx="9" cy="-4" r="4"/>' if line.dots else ""
            label = f"{line.name} {_last(line)}" if last else line.name
            found.append((toned(number, f'<path class="line" d="M0 -4h18"/>{dot}'), label))
    if marks and marks.places:
        label = f"{marks.name} {len(marks.places)}" if last else marks.name
        found.append((toned(len(lines), '<path class="mark" d="M9 -10v12"/>'), label))
    parts, x, y = [text(10, 18, y_label, style="muted")], 10.0 + (CHARACTER * len(y_label) + 20), 18.0
    for mark, name in found:
        label = clipped(name, width - 44)
        if x + 26 + CHARACTER * len(label) > width:
            x, y = 10.0, y + 20
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{mark}</g>{text(x + 24, y, label)}')
        x += 24 + CHARACTER * len(label) + 20
    return "".join(parts), y


def _drawn_line(line: Line, number: int, to_x: Scale, to_y: Scale, frame: Frame) -> str:
    if not line.points:
        return ""
    ys = [y for _, y in line.points]
    smooth = line.smooth and len(ys) > 2

    def placed(values: Sequence[float]) -> list[Point]:
        # Values far above the picture are cut off, so their coordinates need not be exact.
        return [(to_x(x), max(to_y(y), frame[1] - 1000)) for (x, _), y in zip(line.points, values, strict=True)]

    raw = placed(ys)
    parts = [_polyline(thinned(raw), "line raw" if smooth else "line")] if line.raw or not smooth else []
    if smooth:
        parts.append(_polyline(thinned(placed(steady(ys))), "line"))
    drawn = toned(number, *parts)
    clip = f'<svg x="0" y="{frame[1] - 3:.1f}" width="100%" height="{frame[3] - frame[1] + 6:.1f}" overflow="hidden"'
    drawn = f'{clip} viewBox="0 {frame[1] - 3:.1f} {frame[2] + 18:.1f} {frame[3] - frame[1] + 6:.1f}">{drawn}</svg>'
    if line.dots or len(ys) == 1:
        kept = [p for p in raw if p[1] >= frame[1] - 1]
        dots = kept[:: max(1, math.ceil(len(kept) / 60))]
        marks = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in dots)
        drawn += toned(number, marks)
    return drawn


def _last(line: Line) -> str:
    """The last value of a line, averaged if it is smooth."""
    ys = [y for _, y in line.points]
    return shown((steady(ys) if line.smooth else ys)[-1])


def _polyline(points: Sequence[Point], style: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{path}"/>' if len(points) > 1 else ""


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Ticks at 1, 2 or 5 times a power of ten, about `wanted` of them, from at or below `low` to at or above `high`."""
    if not high - low > 1e-300 + max(abs(low), abs(high)) * 1e-9:  # too close for distinct floats
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / max(wanted, 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * magnitude for factor in (1, 2, 5) if factor * magnitude >= rough), 10 * magnitude)
    first, last = math.floor(low / step + SLACK), math.ceil(high / step - SLACK)
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """The label of `value` on an axis with these ticks: 1500 is `1.5k`; small numbers have equally many decimals."""
    largest = max(abs(tick) for tick in ticks)
    step = min((b - a for a, b in pairwise(ticks)), default=largest)
    if largest and not 1e-4 <= largest < 1e15:
        return f"{value:.2g}"
    if largest < 1e3:
        return f"{value:.{_decimals(step)}f}"
    unit, suffix = next(((unit, suffix) for unit, suffix in UNITS if abs(value) >= unit), (1.0, ""))
    label = f"{value / unit:.{_decimals(step / unit)}f}"
    return (label.rstrip("0").rstrip(".") if "." in label else label) + suffix


def _decimals(step: float) -> int:
    return max(0, min(6, -math.floor(math.log10(step) + SLACK))) if step > 0 else 0


@dataclass(frozen=True)
class Bar:
    """One horizontal bar from `start` to `start + value`."""

    name: str
    value: float
    label: str = ""
    """Text next to the bar; its value if empty."""
    interval: tuple[float, float] | None = None
    """A confidence interval, drawn as a whisker."""
    start: float = 0.0
    quiet: bool = False
    """Draw it in grey, for values to compare with."""
    tone: int = 0
    """Number of the line whose colour it has."""


def bar_chart(bars: Sequence[Bar], title: str, width: int = 720) -> str:
    """Horizontal bars from a common zero, each with its name, its label and, where given, its interval."""
    labels = [bar.label or shown(bar.value) for bar in bars]
    wide = width >= NARROW
    name_width = 12 + CHARACTER * max((len(bar.name) for bar in bars), default=0) if wide else 0.0
    name_width = min(name_width, width * 0.45)
    label_width = 22 + CHARACTER * max((len(label) for label in labels), default=0)
    row, thick, top = (34, 18, 10) if wide else (52, 16, 6)
    ends = [max(bar.start + bar.value, *(bar.interval or (0, 0))) for bar in bars]
    to_x = scale(0.0, max([*ends, 0.0]) or 1.0, 10 + name_width, max(width - label_width, 20 + name_width))
    parts, end = [], top + row * len(bars)
    for number, (bar, label) in enumerate(zip(bars, labels, strict=True)):
        y = top + row * number + (row - thick) / 2 + (0 if wide else 9)
        name = clipped(bar.name, name_width - 12 if wide else width - 20)
        middle = y + thick / 2 + 4
        parts.append(text(name_width, middle, name, "end") if wide else text(10, y - 6, name))
        x, right = to_x(bar.start), max(to_x(bar.start + bar.value), to_x(bar.start) + 1.5)
        tone = "quiet" if bar.quiet else TONES[bar.tone % len(TONES)]
        shape = f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{right - x:.1f}" height="{thick}" rx="2"/>'
        parts.append(f'<g class="{tone}">{shape}</g>')
        if bar.interval:
            (low, high), centre = map(to_x, bar.interval), y + thick / 2
            path = f"M{low:.1f} {centre:.1f}H{high:.1f}M{low:.1f} {centre - 5:.1f}v10M{high:.1f} {centre - 5:.1f}v10"
            parts.append(f'<path class="whisker halo" d="{path}"/><path class="whisker" d="{path}"/>')
            right = max(right, high)
        parts.append(text(right + 8, middle, label))
    parts.append(f'<path class="grid" d="M{to_x(0):.1f} {top}V{end}"/>')
    words = "; ".join(f"{bar.name}: {label}" for bar, label in zip(bars, labels, strict=True))
    return picture(width, end + 8, title, words or "There is nothing to draw.", parts)
