"""Thresholds chosen on a validation set: for a label (best F1, a stated precision, the lowest cost) and for abstention.

A threshold is one of the observed scores, so that its figures on the validation set are exact. They are optimistic for
other data, the more so the fewer examples there are. The threshold of labels that were fitted on the same examples
means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neolm.metrics.inputs import Floats
from neolm.metrics.ranking import OperatingPoints, operating_points

ROUNDING = 1e-12  # 1 - 1 / 3 is larger than 2 / 3 in the last bit


@dataclass(frozen=True)
class Threshold:
    """A threshold with what it gives on the validation set: at least this score is predicted to be positive."""

    value: float | None
    """None: no threshold does what was asked for, so the label is not to be predicted; the caller says so."""
    precision: float
    """If `value` is None, the highest precision that a threshold reaches."""
    recall: float
    f1: float
    predicted: int
    """Number of examples at or above the threshold: the precision is measured on these."""


def best_f1_threshold(gold: ArrayLike, scores: ArrayLike) -> Threshold:
    """The threshold with the best F1; of equal ones the highest. Its value is None if no example is positive.

    Args:
        gold: (N,) whether the example has the label.
        scores: (N,) probabilities or logits of the label.
    """
    points = operating_points(gold, scores)
    return _threshold(points, int(np.argmax(points.f1)))


def threshold_at_precision(gold: ArrayLike, scores: ArrayLike, precision: float) -> Threshold:
    """The lowest threshold, which has the highest recall, with at least this precision.

    If none reaches it, the value is None, and the precision is the highest that one reaches.
    """
    points = operating_points(gold, scores)
    reached = np.flatnonzero(points.precision >= precision - ROUNDING)
    return _threshold(points, int(reached[-1]) if len(reached) else 0)


@dataclass(frozen=True)
class Abstention:
    """The confidence below which no answer is given."""

    confidence: float | None
    """None: no confidence keeps the error rate, so no answer is to be given; the caller says so."""
    error: float
    """Error rate of the answers on the validation set; without answers, the lowest rate that can be kept."""
    coverage: float
    """Share of the examples that are answered (Geifman & El-Yaniv 2017)."""


def abstention_threshold(correct: ArrayLike, confidence: ArrayLike, error: float) -> Abstention:
    """The lowest confidence from which the answers have at most this error rate.

    Args:
        correct: (N,) whether the prediction is right.
        confidence: (N,) its probability.
        error: Highest error rate of the answers that are given, from 0 to 1.
    """
    found = threshold_at_precision(correct, confidence, 1 - error)
    answered = 0 if found.value is None else found.predicted
    return Abstention(found.value, 1 - found.precision, answered / len(np.asarray(correct)))


@dataclass(frozen=True)
class ScopeThreshold:
    """The confidence below which an example counts as belonging to none of the labels."""

    confidence: float
    in_scope_accuracy: float
    """Share of the examples with a label that are at or above the confidence, and right."""
    out_of_scope_recall: float
    """Share of the examples without a label that are below it."""


def scope_threshold(correct: ArrayLike, confidence: ArrayLike, outside: ArrayLike) -> ScopeThreshold:
    """The confidence with the highest mean of in-scope accuracy and out-of-scope recall; of equal ones the lowest.

    Args:
        correct: (N,) whether the prediction for an example with a label is right.
        confidence: (N,) its probability.
        outside: (M,) probabilities of the predictions for examples without a label.
    """
    right, inside, others = np.asarray(correct, bool), np.asarray(confidence), np.asarray(outside)
    points = np.unique(np.concatenate([inside, others, [1.0]]))
    order = np.argsort(inside)
    right_below = np.concatenate([[0], np.cumsum(right[order])])
    accuracy = (right.sum() - right_below[np.searchsorted(inside[order], points)]) / len(inside)
    recall = np.searchsorted(np.sort(others), points) / len(others)
    best = int(np.argmax(accuracy + recall))
    return ScopeThreshold(float(points[best]), float(accuracy[best]), float(recall[best]))


def costs(points: OperatingPoints, false_positive: float, false_negative: float) -> Floats:
    """Mean cost of an example at each operating point (K + 1,), from the costs of the two kinds of mistake.

    The first is that of never predicting the label. The cheapest threshold is `points.thresholds[costs.argmin()]`.
    """
    wrong = points.predicted - points.right
    missed = points.positives - points.right
    return np.asarray((wrong * false_positive + missed * false_negative) / points.items, np.float64)


def _threshold(points: OperatingPoints, index: int) -> Threshold:
    """The threshold of an operating point; point 0, which predicts nothing, has none."""
    if index == 0:
        return Threshold(None, float(points.precision.max()), 0.0, 0.0, 0)
    return Threshold(
        float(points.thresholds[index]),
        float(points.precision[index]),
        float(points.recall[index]),
        float(points.f1[index]),
        int(points.predicted[index]),
    )
