"""Confidence intervals by the percentile bootstrap over groups (Efron & Tibshirani 1993, chapter 13), or Wilson's.

Most scores are ratios of sums over items, such as bits / bytes over documents or right answers / questions. Others,
such as a macro F1, are functions of all items. Items of one group, such as the parts of one book, are not independent
of each other; tokens of one document are not either. So whole groups are drawn with replacement, and the score is
computed for each draw. Drawing items or tokens would give intervals that are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neolm.core.errors import InputError
from neolm.metrics.inputs import Ints, examples

MAX_DRAWN_INDICES = 2**22  # limits the memory of one pass; changing it changes the order of the random draws
MAX_UNDEFINED = 0.05  # share of draws without a score, above which percentiles of the others would mislead

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
        number = _numbered([group for group, has in zip(groups, used, strict=True) if has])
        above, below = (np.bincount(number, values).astype(np.float64) for values in (above, below))
    count = len(below)
    assert count, "a ratio needs an item that is not empty"
    value = float(above.sum() / below.sum())
    if count == 1:
        return Interval(value, None, None)
    ratios = [above[drawn].sum(axis=1) / below[drawn].sum(axis=1) for drawn in _draws(count, samples, seed)]
    return _percentiles(value, np.concatenate(ratios), confidence)


def bootstrap_score(
    score: Callable[[Ints], float | None],
    items: int,
    groups: Sequence[str] | None = None,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a score that is not a ratio of sums, such as a macro F1, a correlation or a difference of these.

    It has no limits if there is only one group, or if the score is undefined for more than 5% of the draws; up to
    there, undefined draws are left out.

    Args:
        score: Computes the score of the items with the given indices, which repeat; None where it is undefined, such
            as AUROC without a positive item.
        items: Number of items, at least 1.
        groups: The group of each item; items of a group are drawn together. None: each item is a group.
        samples: Number of draws.
        confidence: Share of the draws that lie inside the interval.
        seed: The same seed gives the same interval.

    Raises:
        InputError: the score of all items is undefined.
    """
    value = score(np.arange(items))
    if value is None:
        raise InputError("bootstrap: the score is undefined for these examples, so that it has no interval")
    number = np.arange(items) if groups is None else _numbered(groups)
    assert len(number) == items
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    if len(members) == 1:
        return Interval(value, None, None)
    drawn = (row for block in _draws(len(members), samples, seed) for row in block)
    scores = [score(np.concatenate([members[group] for group in row])) for row in drawn]
    defined = np.array([one for one in scores if one is not None])
    if len(defined) < (1 - MAX_UNDEFINED) * samples:
        return Interval(value, None, None)
    return _percentiles(value, defined, confidence)


def paired_difference(
    first: ArrayLike, second: ArrayLike, groups: Sequence[str] | None = None, samples: int = 1000, seed: int = 0
) -> Interval:
    """Mean of `first` - `second` with its interval of 95%: two systems, N values of each, on the same items.

    The difference of each item is drawn, not each system on its own, so that items that are hard for both add no
    spread. If zero lies outside the interval, one system is better (Efron & Tibshirani 1993; Koehn 2004).
    """
    one, two = examples("paired difference", first=first, second=second)
    return bootstrap_ratio(one.astype(np.float64) - two, np.ones(len(one)), groups, samples, seed=seed)


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> Interval:
    """A rate with Wilson's score interval (1927), which also fits few items and rates near 0 and 1."""
    if total == 0:
        raise InputError("rate: there are no examples")
    assert 0 <= successes <= total
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    rate = successes / total
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (rate * (1 - rate) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(rate, 0.0 if successes == 0 else low, 1.0 if successes == total else high)


@dataclass(frozen=True)
class OverSeeds:
    """The scores of trainings that differ only in the seed."""

    median: float
    lowest: float
    highest: float
    deviation: float | None
    """Standard deviation of a sample (N - 1); None for one training."""
    runs: int
    failed: int
    """Trainings that ended at a constant prediction or without a finite loss; they count in all other fields."""


def over_seeds(scores: Sequence[float], failed: Sequence[bool]) -> OverSeeds:
    """Median and spread over seeds. Failed trainings are counted and stay in.

    Raises:
        InputError: there are no scores, or one is not finite; a training that diverged has the score of a constant
            prediction.
    """
    values, _ = examples("scores over seeds", score=np.asarray(scores, np.float64), failed=failed)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    median = float(np.median(values))
    return OverSeeds(median, float(values.min()), float(values.max()), deviation, len(values), sum(failed))


def _numbered(groups: Sequence[str]) -> Ints:
    """The number of each item's group, in the order of the groups' first items."""
    order: dict[str, int] = {}
    return np.array([order.setdefault(group, len(order)) for group in groups], np.int64)


def _draws(count: int, samples: int, seed: int) -> Iterator[Ints]:
    """Numbers of groups, drawn with replacement: blocks (n, count), n = `samples` in total."""
    generator = np.random.default_rng(seed)
    done, step = 0, max(1, MAX_DRAWN_INDICES // count)
    while done < samples:
        yield generator.integers(count, size=(min(step, samples - done), count))
        done += step


def _percentiles(value: float, scores: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
