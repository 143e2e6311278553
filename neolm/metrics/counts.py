"""Precision, recall and F1 from counts, for labels of any task: single labels, several at once, entities.

A ratio without cases is 0, as in scikit-learn (`zero_division=0`): a label that is never predicted has precision 0. An
average over labels leaves out those that occur neither in the gold labels nor in the predictions: they have no score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neolm.metrics.inputs import Bools, Floats, Ints, booleans


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision, recall and F1: numbers of one average, or arrays (L,) of L labels."""

    precision: Floats
    recall: Floats
    f1: Floats


@dataclass(frozen=True)
class Counts:
    """How often each of L labels was predicted rightly, predicted, and gold; three arrays (L,)."""

    right: Ints
    predicted: Ints
    gold: Ints

    @property
    def present(self) -> Bools:
        """(L,) whether the label occurs in the gold labels or in the predictions."""
        return self.predicted + self.gold > 0

    def by_label(self) -> PrecisionRecall:
        """Scores of each label."""
        return PrecisionRecall(
            _ratio(self.right, self.predicted),
            _ratio(self.right, self.gold),
            _ratio(2 * self.right, self.predicted + self.gold),
        )

    def micro(self) -> PrecisionRecall:
        """Scores of the summed counts: each decision weighs the same."""
        return Counts(self.right.sum(), self.predicted.sum(), self.gold.sum()).by_label()

    def macro(self) -> PrecisionRecall:
        """Mean of the scores of the labels that are present: each label weighs the same.

        Macro F1 is the mean of the F1 scores, not the F1 of mean precision and recall (Opitz & Burst 2019).
        """
        return self._mean(self.present)

    def weighted(self) -> PrecisionRecall:
        """Mean of the labels' scores, weighted by how often each is gold."""
        return self._mean(self.gold)

    def _mean(self, weights: ArrayLike) -> PrecisionRecall:
        weights, one = np.asarray(weights, np.float64), self.by_label()
        total = max(weights.sum(), np.finfo(np.float64).tiny)  # 0 without any label
        return PrecisionRecall(*((weights * score).sum() / total for score in (one.precision, one.recall, one.f1)))


def multilabel_counts(gold: ArrayLike, predicted: ArrayLike, known: ArrayLike | None = None) -> Counts:
    """Counts of L labels from N examples with several labels each.

    Args:
        gold: (N, L) whether the example has the label.
        predicted: (N, L) whether it was predicted.
        known: (N, L) whether the gold label is known; a pair that is not known is left out, not counted as negative.
    """
    truth, guess = booleans("multi-label", gold=gold, predicted=predicted)
    assert truth.ndim == 2
    assert truth.shape == guess.shape
    mask = np.ones(truth.shape, bool) if known is None else np.asarray(known, bool)
    truth, guess = truth & mask, guess & mask
    return Counts((truth & guess).sum(0), guess.sum(0), truth.sum(0))


def _ratio(part: Ints, whole: Ints) -> Floats:
    return np.asarray(part / np.maximum(whole, 1), np.float64)
