"""Labels in another order than the data's: the permutation under which the predictions would be right.

A model whose label ids are permuted (entailment 0 in one file, 2 in another) has an accuracy below chance although it
works. No real classifier is twice as accurate under another naming of its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neolm.metrics.classification import accuracy, majority_rate
from neolm.metrics.inputs import Floats, Ints

HIGH = 0.8  # the accuracy under the best permutation from which labels are suspected to be permuted


@dataclass(frozen=True)
class Relabelling:
    """The permutation of the predicted labels with the highest accuracy."""

    accuracy: float
    """Accuracy of the predictions as they are."""
    best_accuracy: float
    """Accuracy after the permutation."""
    gold_of: tuple[int, ...]
    """The gold label that each predicted label stands for."""

    def describe(self, names: Sequence[str]) -> str:
        """One line that names the labels that are exchanged."""
        moved = [
            f"{names[predicted]!r} means {names[gold]!r}"
            for predicted, gold in enumerate(self.gold_of)
            if predicted != gold
        ]
        return (
            f"the labels of the model seem to be in another order: accuracy is {self.accuracy:.3f}, and "
            f"{self.best_accuracy:.3f} if its {', '.join(moved)}"
        )


def suspected_relabelling(matrix: Ints) -> Relabelling | None:
    """The best permutation, if it shows that the labels are permuted; otherwise None.

    It does if its accuracy is at least 0.8, above that of always answering the majority label, and more than twice the
    accuracy as it is. Labels that make no difference keep their names.

    Args:
        matrix: (L, L) number of examples by gold label (row) and predicted label (column).
    """
    labels = len(matrix)
    gain = matrix.T * (labels + 1) + np.eye(labels, dtype=np.int64)  # of equal permutations, the one that moves least
    gold_of = best_assignment(gain)
    best = float(matrix[gold_of, np.arange(labels)].sum() / matrix.sum())
    now = accuracy(matrix)
    if best < HIGH or best <= majority_rate(matrix) or best <= 2 * now:
        return None
    return Relabelling(now, best, tuple(gold_of.tolist()))


def best_assignment(gain: Ints | Floats) -> Ints:
    """The column of each row, all different, with the largest sum of `gain` (L, L).

    The Hungarian method (Kuhn 1955) by shortest augmenting paths (Jonker & Volgenant 1987): rows are added one at a
    time, in O(L^3) overall. Row and column 0 of the arrays stand for "none".
    """
    size = len(gain)
    cost = -np.asarray(gain, np.float64)
    row_price, column_price = np.zeros(size + 1), np.zeros(size + 1)
    row_of = np.zeros(size + 1, np.int64)
    for row in range(1, size + 1):
        row_of[0], column = row, 0
        distance = np.full(size + 1, np.inf)
        previous = np.zeros(size + 1, np.int64)
        reached = np.zeros(size + 1, bool)
        while row_of[column]:
            reached[column] = True
            through = cost[row_of[column] - 1] - row_price[row_of[column]] - column_price[1:]
            shorter = ~reached[1:] & (through < distance[1:])
            distance[1:][shorter] = through[shorter]
            previous[1:][shorter] = column
            nearest = int(np.argmin(np.where(reached, np.inf, distance)))
            step = distance[nearest]
            row_price[row_of[reached]] += step
            column_price[reached] -= step
            distance[~reached] -= step
            column = nearest
        while column:  # back along the path, each row takes the next column
            row_of[column] = row_of[previous[column]]
            column = int(previous[column])
    columns = np.empty(size, np.int64)
    columns[row_of[1:] - 1] = np.arange(size)
    return columns
