"""Small SVG charts, drawn without a plotting library: lines over steps, and horizontal bars with intervals.

A chart is one self-contained `<svg>` that reads in light and dark. Its colours are CSS variables: a page that
embeds it and defines `--ink`, `--muted`, `--rule`, `--surface`, `--first`, `--second`, `--third` wins over the
chart's own. What it leaves out: interaction, stacked or grouped bars, and a second y axis.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from neolm.core.progress import count
from neolm.core.ticks import log_ticks, nice_ticks, tick_label

Point = tuple[float, float]

NARROW = 480  # below this width in pixels, a chart is laid out for a phone
CHARACTER = 6.7  # the width in pixels that a character of 12 px text takes, on the generous side
LARGEST = 1e300  # beyond it, differences of values would overflow
COLOURS = ("first", "second", "third")

STYLE = """
.chart{--c-ink:#20262c;--c-muted:#59626c;--c-rule:#dedbd3;--c-surface:#fff;--c-first:#0b6583;--c-second:#b0500c;
--c-third:#6a4c93;font:12px system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
@media (prefers-color-scheme:dark){.chart{--c-ink:#e3e6e8;--c-muted:#a0a8b0;--c-rule:#343b41;--c-surface:#1b1f23;
--c-first:#62bcd8;--c-second:#f0a262;--c-third:#b9a0e0}}
.chart .paper{fill:var(--surface,var(--c-surface))}
.chart text{fill:var(--ink,var(--c-ink));font-variant-numeric:tabular-nums}
.chart text.muted{fill:var(--muted,var(--c-muted))}
.chart .grid{stroke:var(--rule,var(--c-rule));stroke-width:1;fill:none}
.chart .first{color:var(--first,var(--c-first))}
.chart .second{color:var(--second,var(--c-second))}
.chart .third{color:var(--third,var(--c-third))}
.chart .quiet{color:var(--muted,var(--c-muted))}
.chart .line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.chart .raw{stroke-width:1;opacity:.3}
.chart .dot{fill:currentColor;stroke:var(--surface,var(--c-surface));stroke-width:1.5}
.chart .bar{fill:currentColor}
.chart .quiet .bar{opacity:.45}
.chart .whisker{stroke:var(--ink,var(--c-ink));stroke-width:1.5;fill:none}
.chart .whisker.halo{stroke:var(--surface,var(--c-surface));stroke-width:4}
"""


@dataclass(frozen=True)
class Line:
    """One series of (x, y) points; values that are not finite are left out."""

    name: str
    points: Sequence[Point]
    smooth: bool = False
    """Draw the raw values faint and an exponential average of them strong."""
    dots: bool = False
    """Mark each point, for series with few of them."""


@dataclass(frozen=True)
class Bar:
    """One horizontal bar from `start` to `start + value`."""

    name: str
    value: float
    label: str = ""
    """What stands beside the bar; by default its value."""
    interval: tuple[float, float] | None = None
    """A confidence interval, drawn as a whisker."""
    start: float = 0.0
    quiet: bool = False
    """Draw it in grey, for what is there to compare with."""


def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str, width: int = 720, height: int = 320, log_x: bool = False
) -> str:
    """The lines over a common pair of axes, as an SVG; the y axis may cut off a few extreme values, and says so."""
    lines = [Line(line.name, _finite(line.points, log_x), line.smooth, line.dots) for line in lines]
    values = [y for line in lines for _, y in line.points]
    low, high = _robust_range(values)
    y_ticks = nice_ticks(low, high, 5)
    legend, legend_height = _legend([line for line in lines if line.points], y_label, width)
    left = 16 + CHARACTER * max(len(tick_label(tick, y_ticks)) for tick in y_ticks)
    frame = (left, 14.0 + legend_height, width - 18.0, height - 40.0)
    x_ticks, to_x = _x_axis([x for line in lines for x, _ in line.points], frame, log_x)
    to_y = _scale(y_ticks[0], y_ticks[-1], frame[3], frame[1])

    parts = [legend, *_grid(x_ticks, y_ticks, to_x, to_y, frame), _text(frame[2], height - 8, x_label, "end", "muted")]
    for number, line in enumerate(lines):
        parts.append(_drawn_line(line, COLOURS[number % len(COLOURS)], to_x, to_y, frame))
    if not values:
        parts.append(
            _text((frame[0] + frame[2]) / 2, (frame[1] + frame[3]) / 2, "nothing logged yet", "middle", "muted")
        )
    elif max(values) > y_ticks[-1]:
        parts.append(_text(frame[2], frame[1] + 12, f"\u2191 highest value {_number(max(values))}", "end", "muted"))
    ends = ", ".join(f"{line.name} ends at {_last(line)}" for line in lines if line.points)
    title = f"{' and '.join(line.name for line in lines)}: {y_label} by {x_label}"
    return _svg(width, height, title, ends or "There are no points to draw.", parts)


def bar_chart(bars: Sequence[Bar], title: str, width: int = 720) -> str:
    """Horizontal bars from a common zero, each with its name, its label and, where given, its interval."""
    labels = [bar.label or _number(bar.value) for bar in bars]
    beside = width >= NARROW
    name_width = 12 + CHARACTER * max((len(bar.name) for bar in bars), default=0) if beside else 0.0
    name_width = min(name_width, width * 0.45)
    label_width = 22 + CHARACTER * max((len(label) for label in labels), default=0)
    row, thick, top = (34, 18, 10) if beside else (52, 16, 6)
    ends = [max(bar.start + bar.value, *(bar.interval or (0, 0))) for bar in bars]
    to_x = _scale(0.0, max([*ends, 0.0]) or 1.0, 10 + name_width, max(width - label_width, 20 + name_width))
    parts, end = [], top + row * len(bars)
    for number, (bar, label) in enumerate(zip(bars, labels, strict=True)):
        y = top + row * number + (row - thick) / 2 + (0 if beside else 9)
        name = _clipped(bar.name, name_width - 12 if beside else width - 20)
        middle = y + thick / 2 + 4
        parts.append(_text(name_width, middle, name, "end", "") if beside else _text(10, y - 6, name, "start", ""))
        x, right = to_x(bar.start), max(to_x(bar.start + bar.value), to_x(bar.start) + 1.5)
        tone = "quiet" if bar.quiet else "first"
        shape = f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{right - x:.1f}" height="{thick}" rx="2"/>'
        parts.append(f'<g class="{tone}">{shape}</g>')
        if bar.interval:
            parts.append(_whisker(to_x(bar.interval[0]), to_x(bar.interval[1]), y + thick / 2))
            right = max(right, to_x(bar.interval[1]))
        parts.append(_text(right + 8, middle, label, "start", ""))
    parts.append(f'<path class="grid" d="M{to_x(0):.1f} {top}V{end}"/>')
    words = "; ".join(f"{bar.name}: {label}" for bar, label in zip(bars, labels, strict=True))
    return _svg(width, end + 8, title, words or "There is nothing to draw.", parts)


def smoothed(values: Sequence[float], span: float) -> list[float]:
    """The exponential average over about the last `span` values, over fewer at the start, where a curve is steep."""
    found, average = [], values[0] if values else 0.0
    for number, value in enumerate(values):
        average += (value - average) / max(1.0, min(span, number / 8))
        found.append(average)
    return found


def thinned(points: Sequence[Point], column: float = 2.0) -> list[Point]:
    """Of pixel positions, per column of so many pixels the first, lowest, highest and last: it looks the same."""
    kept: list[Point] = []
    columns: dict[int, list[Point]] = {}
    for point in points:
        columns.setdefault(int(point[0] / column), []).append(point)
    for group in columns.values():
        marks = [group[0], min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1]), group[-1]]
        kept += sorted(dict.fromkeys(marks), key=lambda p: p[0])
    return kept


def _robust_range(values: Sequence[float]) -> Point:
    """The range to show: all of it, unless a few values lie so high that the rest would be flat."""
    if not values:
        return 0.0, 1.0
    ordered = sorted(values)
    low, high, usual = ordered[0], ordered[-1], ordered[int((len(ordered) - 1) * 0.97)]
    outlying = len(values) >= 8 and high - low > 10 * (usual - low) > 0
    return low, usual + 2 * (usual - low) if outlying else high


def _finite(points: Sequence[Point], log_x: bool) -> list[Point]:
    return [(x, y) for x, y in points if abs(x) < LARGEST and abs(y) < LARGEST and (x > 0 or not log_x)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


Frame = tuple[float, float, float, float]  # left, top, right, bottom


def _x_axis(xs: Sequence[float], frame: Frame, log_x: bool) -> tuple[list[float], Callable[[float], float]]:
    """Ticks, and the way from a value to pixels."""
    low, high = (min(xs), max(xs)) if xs else (1.0, 10.0)
    if log_x:
        high = high if high > low else low * 10
        inner = _scale(math.log10(low), math.log10(high), frame[0], frame[2])
        return log_ticks(low, high), lambda value: inner(math.log10(value))
    low = 0.0 if 0 <= low <= 0.1 * high or low == high > 0 else low
    high = high if high > low else low + 1
    ticks = [tick for tick in nice_ticks(low, high, 7 if frame[2] > NARROW else 4) if low <= tick <= high]
    return ticks or [low, high], _scale(low, high, frame[0], frame[2])


def _grid(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
    frame: Frame,
) -> list[str]:
    left, _, right, bottom = frame
    parts = []
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(_text(left - 8, y + 4, tick_label(tick, y_ticks), "end", "muted"))
    for tick in x_ticks:
        x = to_x(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom:.1f}v5"/>')
        parts.append(_text(x, bottom + 18, tick_label(tick, x_ticks), "middle", "muted"))
    return parts


def _legend(lines: Sequence[Line], y_label: str, width: float) -> tuple[str, float]:
    """What the y axis shows, then each line's mark, name and last value; wrapped to the width."""
    parts, x, y = [_text(10, 18, y_label, "start", "muted")], 10.0, 18.0
    x += CHARACTER * len(y_label) + 20
    for number, line in enumerate(lines):
        label = f"{line.name} {_last(line)}"
        if x + 26 + CHARACTER * len(label) > width:
            x, y = 10.0, y + 20
        dot = f'<circle class="dot" cx="{x + 9:.1f}" cy="{y - 4:.1f}" r="4"/>' if line.dots else ""
        mark = f'<path class="line" d="M{x:.1f} {y - 4:.1f}h18"/>{dot}'
        parts.append(f'<g class="{COLOURS[number % len(COLOURS)]}">{mark}</g>{_text(x + 24, y, label, "start", "")}')
        x += 24 + CHARACTER * len(label) + 20
    return "".join(parts), y


def _drawn_line(
    line: Line, tone: str, to_x: Callable[[float], float], to_y: Callable[[float], float], frame: Frame
) -> str:
    if not line.points:
        return ""
    ys = [y for _, y in line.points]
    smooth = line.smooth and len(ys) > 2
    # Far above the picture is as good as far beyond it: what is cut off needs no true coordinate.
    raw = [(to_x(x), max(to_y(y), frame[1] - 1000)) for x, y in line.points]
    parts = [_polyline(thinned(raw), "line raw" if smooth else "line")]
    if smooth:
        parts.append(_polyline(thinned([(p[0], to_y(y)) for p, y in zip(raw, _steady(ys), strict=True)]), "line"))
    drawn = f'<g class="{tone}">{"".join(parts)}</g>'
    clip = f'<svg x="0" y="{frame[1] - 3:.1f}" width="100%" height="{frame[3] - frame[1] + 6:.1f}" overflow="hidden"'
    drawn = f'{clip} viewBox="0 {frame[1] - 3:.1f} {frame[2] + 18:.1f} {frame[3] - frame[1] + 6:.1f}">{drawn}</svg>'
    if line.dots or len(ys) == 1:
        kept = [p for p in raw if p[1] >= frame[1] - 1]
        dots = kept[:: max(1, math.ceil(len(kept) / 60))]
        marks = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in dots)
        drawn += f'<g class="{tone}">{marks}</g>'
    return drawn


def _steady(ys: Sequence[float]) -> list[float]:
    return smoothed(ys, min(len(ys) / 50, 200))


def _last(line: Line) -> str:
    """What a line ends at, as it is drawn strong."""
    ys = [y for _, y in line.points]
    return _number((_steady(ys) if line.smooth else ys)[-1])


def _polyline(points: Sequence[Point], style: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{style}" points="{path}"/>' if len(points) > 1 else ""


def _whisker(low: float, high: float, y: float) -> str:
    path = f"M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 5:.1f}v10M{high:.1f} {y - 5:.1f}v10"
    return f'<path class="whisker halo" d="{path}"/><path class="whisker" d="{path}"/>'


def _text(x: float, y: float, text: str, anchor: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _clipped(text: str, width: float) -> str:
    room = max(4, int(width / CHARACTER))
    return text if len(text) <= room else text[: room - 1] + "\u2026"


def _number(value: float) -> str:
    return count(value) if abs(value) >= 1e4 else f"{value:.3g}" if abs(value) >= 100 else f"{value:.2f}"


def _svg(width: float, height: float, title: str, description: str, parts: Iterable[str]) -> str:
    body = "".join(parts)
    name = f"chart-{zlib.crc32(f'{width} {title} {body}'.encode()):08x}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
        f'<style>{STYLE}</style><rect class="paper" width="100%" height="100%" rx="6"/>{body}</svg>\n'
    )
