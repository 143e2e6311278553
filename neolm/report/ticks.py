"""The ticks of an axis and their labels: round numbers, about as many as wanted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

SLACK = 1e-9  # of a step: a rounding error must not add or remove a tick
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


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
