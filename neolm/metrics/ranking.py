"""Scores of an order: average ranks, AUROC, and the operating points that average precision and thresholds use.

Equal scores are one operating point: no threshold can separate them. So ties count half in AUROC (the Mann-Whitney
statistic, Hanley & McNeil 1982), as in scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neolm.metrics.inputs import Floats, Ints, booleans, examples


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks (N,) from 1 in increasing order; equal values share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks: Floats = np.cumsum(counts) - (counts - 1) / 2
    return ranks[place]


def auroc(gold: ArrayLike, scores: ArrayLike) -> float | None:
    """Probability that a positive example has a higher score than a negative one; None without one of the two.

    Args:
        gold: (N,) whether the example is positive.
        scores: (N,) higher means more likely positive; logits or probabilities.
    """
    _, values = examples("AUROC", gold=gold, scores=scores)
    (positive,) = booleans("AUROC", gold=gold)
    count = int(positive.sum())
    pairs = count * (len(positive) - count)
    if not pairs:
        return None
    return float((average_ranks(values)[positive].sum() - count * (count + 1) / 2) / pairs)


@dataclass(frozen=True)
class OperatingPoints:
    """What each threshold gives: examples with a score of at least the threshold are predicted to be positive.

    The arrays (K + 1,) start at the threshold infinity, which predicts nothing, and go down through the K distinct
    scores.
    """

    thresholds: Floats
    right: Ints
    """Positive examples among the predicted ones."""
    predicted: Ints
    positives: int
    """Positive examples in the data."""
    items: int

    @property
    def precision(self) -> Floats:
        """Share of the predicted examples that are positive; 0 where nothing is predicted."""
        return np.asarray(self.right / np.maximum(self.predicted, 1))

    @property
    def recall(self) -> Floats:
        """Share of the positive examples that are predicted; 0 if there are none."""
        return np.asarray(self.right / max(self.positives, 1))

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall; 0 without any positive or predicted example."""
        return np.asarray(2 * self.right / np.maximum(self.predicted + self.positives, 1))


def operating_points(gold: ArrayLike, scores: ArrayLike) -> OperatingPoints:
    """The operating points of N examples.

    Args:
        gold: (N,) whether the example is positive.
        scores: (N,) higher means more likely positive.
    """
    _, values = examples("thresholds", gold=gold, scores=scores)
    (truth,) = booleans("thresholds", gold=gold)
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # of each run of equal scores
    right = np.append(0, np.cumsum(truth)[last])
    thresholds = np.append(np.inf, values[last])
    return OperatingPoints(thresholds, right, np.append(0, last + 1), int(truth.sum()), len(truth))


def average_precision(gold: ArrayLike, scores: ArrayLike) -> float | None:
    """Precision averaged over the steps of recall, without interpolation (AUPRC); None without a positive example.

    It is the sum of (recall_k - recall_k-1) precision_k over the operating points, as in scikit-learn.
    """
    points = operating_points(gold, scores)
    if not points.positives:
        return None
    return float(np.diff(points.recall) @ points.precision[1:])
