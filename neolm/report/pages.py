"""HTML pages and Markdown files from Jinja2 templates, and how numbers are written in them.

A page is one file that loads nothing: its style, its script and its pictures are inside. Text is escaped by Jinja2's
autoescaping; only the pictures, which escape their own texts, are inserted as markup.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

import neolm
from neolm.core.energy import how_known
from neolm.core.progress import count, duration

GENERATOR = "NeoLM"  # in the head of every page
WIDE, HALF = 860, 420  # widths of pictures in pixels: the whole page, half of it
PHONE = 360  # width of the second version of each picture, which the style sheet shows on narrow screens


@dataclass(frozen=True)
class Figure:
    """A picture with its caption; `draw` returns the SVG for a width in pixels."""

    draw: Callable[[int], str]
    caption: str = ""
    width: int = WIDE


def render(template: str, **values: Any) -> str:
    """Fill a template of the folder `templates/`.

    Raises:
        ValueError: a value has another form than the template expects.
    """
    try:
        return _environment.get_template(template).render(values)
    except UndefinedError as error:
        raise ValueError(str(error)) from error


def data_size(number: float) -> str:
    """`31218943` to `31.2 MB`, in powers of ten, with a no-break space."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:.3g}\u00a0{unit}"
    return f"{number:.0f}\u00a0B"


def energy_amount(kwh: float) -> str:
    """`0.0132` kWh to `13 Wh`, with a no-break space."""
    return f"{kwh:.3g}\u00a0kWh" if kwh >= 1 else f"{kwh * 1000:.2g}\u00a0Wh"


def plural(number: int, noun: str) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_environment = Environment(
    loader=PackageLoader("neolm.report"),
    autoescape=lambda name: name is not None and name.endswith(".html"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.filters |= {"count": count, "duration": duration, "log": math.log, "quote": shlex.quote}
_environment.filters |= {"data_size": data_size, "energy_amount": energy_amount, "plural": plural}
_environment.globals |= {"generator": GENERATOR, "version": neolm.__version__, "PHONE": PHONE, "how_known": how_known}
