"""Validation examples that a person should look at: mistakes, and labels that may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

MAX_CHARACTERS = 300  # of a text on the page
# Control characters, also those that change the direction of the text around them (UAX #9); they are made visible.
HIDDEN = (*range(9), *range(11, 32), 127, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
VISIBLE = dict.fromkeys(HIDDEN, "\ufffd")


@dataclass(frozen=True)
class Shown:
    """An example that a person should look at."""

    line: str
    """Place in the table, such as `1,204`; in several tables `NAME:LINE`."""
    texts: tuple[str, ...]
    given: str
    """The label or number in the table."""
    found: str
    """What the model says."""
    probability: float | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any], key: str) -> Self:
        """The example of a row of the results, in which `key` is what the model says."""
        texts, probability = row.get("texts"), row.get("probability")
        found, line = row.get(key), row.get("line")
        return cls(
            f"{line:,}" if isinstance(line, int) else str(line),
            tuple(_shortened(str(text)) for text in (texts if isinstance(texts, list) else [])),
            str(row.get("gold")),
            f"{found:.3g}" if isinstance(found, float) else str(found),
            float(probability) if isinstance(probability, (int, float)) else None,
        )


def _shortened(text: str) -> str:
    """The beginning of a text, without control characters."""
    text = text.translate(VISIBLE)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS].rstrip()} \u2026"
