"""Scores of single-label classification, all from the confusion matrix.

Definitions follow scikit-learn, which GLUE and SuperGLUE use: MRPC and QQP report accuracy and the F1 of label 1, CoLA
Matthews correlation, CommitmentBank accuracy and macro F1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from neolm.metrics.counts import Counts
from neolm.metrics.inputs import Ints, label_ids


def confusion_matrix(gold: ArrayLike, predicted: ArrayLike, labels: int) -> Ints:
    """Number of examples by gold label (row) and predicted label (column), (L, L).

    Args:
        gold: (N,) ids of the gold labels.
        predicted: (N,) ids of the predicted labels.
        labels: Number of labels L.

    Raises:
        InputError: there are no examples, the arrays differ in length, or an id is not one of the labels.
    """
    rows, columns = label_ids("classification", labels, gold=gold, predicted=predicted)
    return np.bincount(rows * labels + columns, minlength=labels * labels).reshape(labels, labels)


def accuracy(matrix: Ints) -> float:
    """Share of examples that are right."""
    return float(np.trace(matrix) / matrix.sum())


def balanced_accuracy(matrix: Ints) -> float:
    """Mean recall of the labels that occur (Brodersen et al. 2010); always one label gives 1 / their number."""
    gold = matrix.sum(1)
    occurs = gold > 0
    return float((np.diag(matrix)[occurs] / gold[occurs]).mean())


def matthews_correlation(matrix: Ints) -> float:
    """Correlation of gold and predicted labels (Matthews 1975; for more than two labels, Gorodkin 2004).

    It is 0 if all predictions or all gold labels are the same, as in scikit-learn and in CoLA's score.
    """
    gold, predicted, total = matrix.sum(1), matrix.sum(0), int(matrix.sum())
    covariance = int(np.trace(matrix)) * total - int(gold @ predicted)
    spread = math.sqrt((total**2 - int(gold @ gold)) * (total**2 - int(predicted @ predicted)))
    return covariance / spread if spread else 0.0


def majority_rate(matrix: Ints) -> float:
    """Accuracy of always answering the label that is most frequent in the gold labels."""
    return float(matrix.sum(1).max() / matrix.sum())


def has_failed(matrix: Ints) -> bool:
    """Whether every prediction is the same label although the gold labels differ: the training has failed.

    An accuracy no better than the majority rate (Mosbach et al. 2021) is not asked for: with rare labels, a useful
    classifier may stay below it.
    """
    return int((matrix.sum(0) > 0).sum()) == 1 and int((matrix.sum(1) > 0).sum()) > 1


def label_counts(matrix: Ints) -> Counts:
    """Counts of each label, for precision, recall and F1."""
    return Counts(np.diag(matrix), matrix.sum(0), matrix.sum(1))


def classification_scores(matrix: Ints) -> dict[str, float]:
    """The scores of all labels together, by name.

    Micro precision, recall and F1 of single labels are all the accuracy. For `f1` of a binary task see `label_counts`.
    """
    counts = label_counts(matrix)
    return {
        "accuracy": accuracy(matrix),
        "balanced_accuracy": balanced_accuracy(matrix),
        "macro_f1": float(counts.macro().f1),
        "weighted_f1": float(counts.weighted().f1),
        "matthews": matthews_correlation(matrix),
        "majority_rate": majority_rate(matrix),
    }
