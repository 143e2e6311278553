"""What the sections have in common: their frame, their pictures, and how numbers are written."""

from __future__ import annotations

from collections.abc import Callable

from neolm.report.markup import Html, Node, element

WIDE, HALF, NARROW = 860, 420, 360  # pixels: of the page, of half of it, of a phone; the style sheet shows one of two


def section(key: str, title: str, *body: Node) -> Html:
    """A section of the page, with the anchor `key`."""
    return element("section", element("h2", title, id=f"{key}-title"), *body, id=key, aria_labelledby=f"{key}-title")


def paragraph(*children: Node) -> Html:
    """A paragraph of text."""
    return element("p", *children)


def missing(*children: Node) -> Html:
    """A line that says what is not there, and why."""
    return element("p", *children, class_="missing")


def code(text: str) -> Html:
    """A short piece of code or a path within a sentence."""
    return element("code", text)


def figure(draw: Callable[[int], str], *caption: Node, wide: int = WIDE) -> Html:
    """A picture that `draw` makes for a width, `wide` or that of a phone, with what it shows below."""
    return element(
        "figure",
        element("div", Html(draw(wide)), class_="wide"),
        element("div", Html(draw(NARROW)), class_="narrow"),
        element("figcaption", *caption) if caption else None,
    )


def data_size(number: float) -> str:
    """`31218943` to `31.2 MB`, in powers of ten as disks are sold, on one line."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.3g}\u00a0{unit}"
    return f"{number:.0f}\u00a0B"


def energy_amount(kwh: float) -> str:
    """`0.0132` kWh to `13 Wh`, on one line."""
    return f"{kwh:.3g}\u00a0kWh" if kwh >= 1 else f"{kwh * 1000:.2g}\u00a0Wh"


def plural(number: int, noun: str) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
