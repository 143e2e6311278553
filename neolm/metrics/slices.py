"""A score by the values of a column, such as the source of a text or the group that it speaks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neolm.metrics.inputs import examples
from neolm.metrics.intervals import Interval, bootstrap_ratio, wilson_interval


@dataclass(frozen=True)
class Slice:
    """The mean of the examples with one value in the column."""

    name: str
    count: int
    score: Interval


def score_by_slice(
    values: ArrayLike, slices: Sequence[str], groups: Sequence[str] | None = None, samples: int = 1000, seed: int = 0
) -> list[Slice]:
    """The mean of each slice with its interval of 95%, the lowest first.

    For a false-positive rate, give the negative examples only, with 1 where one is predicted to be positive.

    Args:
        values: (N,) score of each example. If all are 0 or 1, the interval is Wilson's; otherwise, and with `groups`,
            it is a bootstrap.
        slices: (N,) the value of the column.
        groups: (N,) the group of each example, if examples are not independent.
        samples: Number of draws of a bootstrap.
        seed: The same seed gives the same intervals.
    """
    scores, column = examples("slices", values=values, slices=np.asarray(slices, object))
    families = None if groups is None else np.asarray(groups, object)
    is_rate = families is None and bool(np.isin(scores, (0, 1)).all())
    table = []
    for name in dict.fromkeys(slices):
        inside = column == name
        chosen = scores[inside].astype(np.float64)
        if is_rate:
            interval = wilson_interval(int(chosen.sum()), len(chosen))
        else:
            members = None if families is None else families[inside].tolist()
            interval = bootstrap_ratio(chosen, np.ones(len(chosen)), members, samples, seed=seed)
        table.append(Slice(name, len(chosen), interval))
    return sorted(table, key=lambda row: row.score.value)
