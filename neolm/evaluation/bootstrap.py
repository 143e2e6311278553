"""Confidence intervals by the percentile bootstrap (Efron & Tibshirani 1993, chapter 13).

A corpus number here is a ratio of sums over documents, such as bits / bytes. Documents are the independent units, so
documents are drawn anew, with replacement, and the ratio of the sums is taken again; tokens inside a document hang
together, and drawing tokens would give intervals that are far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS_TOGETHER = 2**22  # bounds the memory of one pass; part of the definition, since it orders the random draws


@dataclass(frozen=True)
class Interval:
    """A value and the interval around it; one document alone has none."""

    value: float
    low: float | None
    high: float | None

    def map(self, function: Callable[[float], float]) -> Interval:
        """The interval of an increasing `function` of the value: percentiles go along with it."""
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return Interval(function(self.value), low, high)

    def as_json(self) -> dict[str, float | None]:
        """`{"value", "low", "high"}`; what is beyond a float is null, since JSON has no infinity."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {key: end if end is not None and math.isfinite(end) else None for key, end in ends.items()}


def bootstrap_ratio(
    numerators: Sequence[float] | NDArray[np.float64],
    denominators: Sequence[float] | NDArray[np.float64],
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The ratio of two sums over N documents, and its interval.

    Args:
        numerators: N numbers, such as each document's bits.
        denominators: N numbers of at least 0, such as each document's bytes. Documents with 0 say nothing and are left
            out.
        samples: Times that N documents are drawn.
        confidence: Share of the draws that the interval holds.
        seed: The same seed gives the same interval.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    above, below = above[below > 0], below[below > 0]
    count = len(below)
    assert count, "a ratio needs a document that is not empty"
    value = float(above.sum() / below.sum())
    if count == 1:
        return Interval(value, None, None)
    generator = np.random.default_rng(seed)
    ratios: list[NDArray[np.float64]] = []
    done, step = 0, max(1, DRAWS_TOGETHER // count)
    while done < samples:
        drawn = generator.integers(count, size=(min(step, samples - done), count))  # (samples, documents)
        ratios.append(above[drawn].sum(axis=1) / below[drawn].sum(axis=1))
        done += len(drawn)
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Interval(value, float(low), float(high))
