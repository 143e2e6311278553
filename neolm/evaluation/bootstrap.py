"""Confidence intervals by the percentile bootstrap (Efron & Tibshirani 1993, chapter 13).

A score is a ratio of sums over items, such as bits / bytes over documents. Items of one group, such as the parts of one
book, are not independent of each other; tokens of one document are not either. So whole groups are drawn with
replacement, and the ratio of the sums is computed for each draw. Drawing items or tokens would give intervals that are
too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_DRAWN_INDICES = 2**22  # limits the memory of one pass; changing it changes the order of the random draws

Numbers = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value with the limits of its confidence interval; None for both limits if there is only one group."""

    value: float
    low: float | None
    high: float | None

    def map(self, function: Callable[[float], float]) -> Interval:
        """The interval of an increasing `function` of the value; such a function maps percentiles to percentiles."""
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return Interval(function(self.value), low, high)

    def as_json(self) -> dict[str, float | None]:
        """`{"value", "low", "high"}`, with null in place of infinity, which JSON cannot express."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {key: end if end is not None and math.isfinite(end) else None for key, end in ends.items()}


def bootstrap_ratio(
    numerators: Numbers,
    denominators: Numbers,
    groups: Sequence[str] | None = None,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the ratio of two sums over N items, with a confidence interval.

    Args:
        numerators: N numbers, such as the bits of each document.
        denominators: N numbers of at least 0, such as the bytes of each document. Items with 0 are left out.
        groups: The group of each item; items of a group are drawn together. None: each item is a group.
        samples: Number of draws.
        confidence: Share of the draws that lie inside the interval.
        seed: The same seed gives the same interval.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    used = below > 0
    above, below = above[used], below[used]
    if groups is not None:
        order: dict[str, int] = {}  # groups are numbered in the order of their first items
        number = [order.setdefault(group, len(order)) for group, has in zip(groups, used, strict=True) if has]
        above, below = (np.bincount(number, values).astype(np.float64) for values in (above, below))
    count = len(below)
    assert count, "a ratio needs an item that is not empty"
    value = float(above.sum() / below.sum())
    if count == 1:
        return Interval(value, None, None)
    generator = np.random.default_rng(seed)
    ratios: list[NDArray[np.float64]] = []
    done, step = 0, max(1, MAX_DRAWN_INDICES // count)
    while done < samples:
        drawn = generator.integers(count, size=(min(step, samples - done), count))  # (samples, groups)
        ratios.append(above[drawn].sum(axis=1) / below[drawn].sum(axis=1))
        done += len(drawn)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Interval(value, float(low), float(high))
