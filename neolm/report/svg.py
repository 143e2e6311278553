"""Parts of the charts: style sheet, eight distinguishable colours, text, and the frame of the picture.

A chart is one self-contained `<svg>` for light and dark themes. Its colours are CSS variables; a page can override them
by `--ink`, `--muted`, `--rule`, `--surface`, `--first` and `--second`.

The eight colours were found by search: in normal vision and in simulated protanopia, deuteranopia and tritanopia
(Machado et al. 2009) no two are closer than 0.12 in OKLab (0.08 for those of Okabe and Ito), and each has a contrast of
at least 3 to the background.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from html import escape

from neolm.core.progress import count

NARROW = 480  # pixels; narrower charts have the layout for a phone
CHARACTER = 6.7  # upper estimate of the width of a character at 12 px, in pixels

TONES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
LIGHT = ("#0b6583", "#b0500c", "#8c22ec", "#4d0d38", "#1699a9", "#d77a4b", "#7d2f29", "#5006ab")
DARK = ("#62bcd8", "#f0a262", "#c350b0", "#eaea7d", "#2afff3", "#df050a", "#9c25fc", "#027c5b")
DASHES = ("", "7 4", "2 4")  # from the fifth line on, colour is not the only difference


def _variables(colours: Iterable[str]) -> str:
    return ";".join(f"--c-{tone}:{colour}" for tone, colour in zip(TONES, colours, strict=True))


STYLE = f"""
.chart{{--c-ink:#20262c;--c-muted:#59626c;--c-rule:#dedbd3;--c-surface:#fff;{_variables(LIGHT)};
font:12px system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}}
@media (prefers-color-scheme:dark){{.chart{{--c-ink:#e3e6e8;--c-muted:#a0a8b0;--c-rule:#343b41;--c-surface:#1b1f23;
{_variables(DARK)}}}}}
.chart .paper{{fill:var(--surface,var(--c-surface))}}
.chart text{{fill:var(--ink,var(--c-ink));font-variant-numeric:tabular-nums}}
.chart text.muted{{fill:var(--muted,var(--c-muted))}}
.chart .grid{{stroke:var(--rule,var(--c-rule));stroke-width:1;fill:none}}
{"".join(f".chart .{tone}{{color:var(--{tone},var(--c-{tone}))}}" for tone in TONES)}
.chart .quiet{{color:var(--muted,var(--c-muted))}}
.chart .line{{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}}
.chart .raw{{stroke-width:1;opacity:.3}}
.chart .dot{{fill:currentColor;stroke:var(--surface,var(--c-surface));stroke-width:1.5}}
.chart .mark{{stroke:currentColor;stroke-width:1.5;opacity:.75;fill:none}}
.chart .dot,.chart .mark{{stroke-dasharray:none}}
.chart .bar{{fill:currentColor}}
.chart .quiet .bar{{opacity:.45}}
.chart .whisker{{stroke:var(--ink,var(--c-ink));stroke-width:1.5;fill:none}}
.chart .whisker.halo{{stroke:var(--surface,var(--c-surface));stroke-width:4}}
"""


def toned(number: int, *parts: str) -> str:
    """The parts in the colour of line `number`, and from the fifth on with its dashes."""
    dashes = DASHES[number // 4 % len(DASHES)]
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<g class="{TONES[number % len(TONES)]}"{style}>{"".join(parts)}</g>'


def text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    """One line of text whose `anchor` (start, middle or end) is at (x, y)."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The linear function from values to pixels that maps `low` to `start` and `high` to `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def shown(value: float) -> str:
    """A value as text in a chart: `2.31`, `1.32M`, `0.0003`."""
    size = abs(value)
    if size >= 1e4:
        return count(value)
    return f"{value:.3g}" if size >= 100 else f"{value:.2f}" if size >= 0.1 or not size else f"{value:.2g}"


def clipped(words: str, width: float) -> str:
    """The words, shortened with an ellipsis to a width in pixels."""
    room = max(4, int(width / CHARACTER))
    return words if len(words) <= room else words[: room - 1] + "\u2026"


def swatch(number: int) -> str:
    """The mark of line `number` for a legend in a page; a chart in that page brings the style."""
    line = toned(number, '<path class="line" d="M1 6h28"/>')
    return f'<svg class="chart swatch" aria-hidden="true" viewBox="0 0 30 12" width="30" height="12">{line}</svg>'


def picture(width: float, height: float, title: str, description: str, parts: Iterable[str]) -> str:
    """The whole `<svg>`, with a title and a description for screen readers."""
    body = "".join(parts)
    name = f"chart-{zlib.crc32(f'{width} {title} {body}'.encode()):08x}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" aria-labelledby="{name}-title {name}-description">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
        f'<style>{STYLE}</style><rect class="paper" width="100%" height="100%" rx="6"/>{body}</svg>\n'
    )
