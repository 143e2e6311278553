"""Horizontal bars from a common zero, with intervals, as an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from neolm.report.svg import CHARACTER, NARROW, TONES, clipped, picture, scale, shown, text


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
    beside = width >= NARROW
    name_width = 12 + CHARACTER * max((len(bar.name) for bar in bars), default=0) if beside else 0.0
    name_width = min(name_width, width * 0.45)
    label_width = 22 + CHARACTER * max((len(label) for label in labels), default=0)
    row, thick, top = (34, 18, 10) if beside else (52, 16, 6)
    ends = [max(bar.start + bar.value, *(bar.interval or (0, 0))) for bar in bars]
    to_x = scale(0.0, max([*ends, 0.0]) or 1.0, 10 + name_width, max(width - label_width, 20 + name_width))
    parts, end = [], top + row * len(bars)
    for number, (bar, label) in enumerate(zip(bars, labels, strict=True)):
        y = top + row * number + (row - thick) / 2 + (0 if beside else 9)
        name = clipped(bar.name, name_width - 12 if beside else width - 20)
        middle = y + thick / 2 + 4
        parts.append(text(name_width, middle, name, "end") if beside else text(10, y - 6, name))
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
