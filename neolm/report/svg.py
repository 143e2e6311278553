"""Parts of the charts: lines in eight distinguishable colours, text, and the frame of the picture.

A chart is an `<svg>` whose colours and strokes come from the page's style sheet (`templates/style.css`), in light and
dark. The eight colours were found by search: in normal vision and in simulated protanopia, deuteranopia and tritanopia
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

Scale = Callable[[float], float]

TONES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
DASHES = ("", "7 4", "2 4")  # from the fifth line on, colour is not the only difference


def toned(number: int, *parts: str) -> str:
    """The parts in the colour of line `number`, and from the fifth on with its dashes."""
    dashes = DASHES[number // 4 % len(DASHES)]
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<g class="{TONES[number % len(TONES)]}"{style}>{"".join(parts)}</g>'


def text(x: float, y: float, words: str, anchor: str = "start", style: str = "") -> str:
    """One line of text whose `anchor` (start, middle or end) is at (x, y)."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def scale(low: float, high: float, start: float, end: float) -> Scale:
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
    """The mark of line `number` for a legend in a page."""
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
        f'<rect class="paper" width="100%" height="100%" rx="6"/>{body}</svg>\n'
    )
