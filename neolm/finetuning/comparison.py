"""Candidates side by side: the same scores for each, paired intervals between them, and the cheapest not beaten.

Each candidate gives logits for the same validation examples. What is compared is a value for each example: whether it
is right; for several labels, the share of labels that are right; for a number, the squared error with a minus sign.

Shapes: N examples, K outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neolm.evaluation.text_scores import Floats, example_values
from neolm.metrics.intervals import bootstrap_ratio, paired_difference
from neolm.models.label_config import Problem

STANDARD_ERROR = 0.68
"""Confidence of an interval of one standard error to each side."""


@dataclass(frozen=True)
class Candidate:
    """A model that was tried."""

    name: str
    logits: Floats
    """(N, K)"""
    seconds: float
    """Time of its training."""


def compare(
    problem: Problem,
    candidates: Sequence[Candidate],
    targets: NDArray[Any],
    groups: Sequence[str] | None,
    failed: Collection[str] = (),
) -> dict[str, Any]:
    """The mean value of each candidate with its interval, and the paired differences from the first one that is
    recommended, as JSON.

    `candidates` are in the order of their cost. The recommended one is the cheapest that no other beats: for no other
    one does the interval of the paired difference lie above zero. One whose name is in `failed`, because it gives one
    answer to everything, is recommended only if all are.
    """
    each = {one.name: example_values(problem, one.logits, targets) for one in candidates}
    means = {name: bootstrap_ratio(value, np.ones(len(value)), groups).as_json() for name, value in each.items()}
    names = [one.name for one in candidates]
    useful = [name for name in names if name not in failed] or names
    recommended = next((name for name in useful if not _beaten(name, each, groups)), useful[-1])
    differences = {
        name: paired_difference(each[name], each[recommended], groups).as_json()
        for name in names
        if name != recommended
    }
    return {"values": means, "recommended": recommended, "differences": differences}


def better_encoder(
    problem: Problem,
    candidates: Sequence[Candidate],
    targets: NDArray[Any],
    groups: Sequence[str] | None,
    confidence: float = STANDARD_ERROR,
) -> Candidate:
    """The candidate that becomes the model: the first one, unless a later one is better by more than chance.

    All of them cost the same when they are used. With few validation examples the best of several is best by chance, so
    the simplest one within a standard error is taken (Breiman et al. 1984, section 3.4.3). The interval of 68% of the
    paired difference is about one standard error to each side.
    """
    chosen = candidates[0]
    for one in candidates[1:]:
        difference = example_values(problem, one.logits, targets) - example_values(problem, chosen.logits, targets)
        interval = bootstrap_ratio(difference, np.ones(len(difference)), groups, confidence=confidence)
        if interval.low is not None and interval.low > 0:
            chosen = one
    return chosen


def _beaten(name: str, each: Mapping[str, Floats], groups: Sequence[str] | None) -> bool:
    intervals = (paired_difference(other, each[name], groups) for key, other in each.items() if key != name)
    return any(interval.low is not None and interval.low > 0 for interval in intervals)
