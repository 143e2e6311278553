"""Examples to look at: the worst mistakes, and gold labels that are probably wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neolm.core.errors import InputError
from neolm.metrics.inputs import Floats, Ints, examples, label_ids

ROUNDING = 1e-6  # equal probabilities reach their mean, which may be larger in the last bit


def worst_mistakes(probabilities: ArrayLike, gold: ArrayLike, limit: int = 20) -> Ints:
    """Indices of wrong predictions, the most confident first, at most `limit`; from (N, L) and gold ids (N,)."""
    chance, truth = _distributions(probabilities, gold)
    wrong = np.flatnonzero(chance.argmax(1) != truth)
    return wrong[np.argsort(-chance[wrong].max(1), kind="stable")][:limit]


@dataclass(frozen=True)
class LabelErrors:
    """Examples whose gold label is suspected to be wrong, the most suspicious first."""

    indices: Ints
    """(S,) of the examples."""
    suggested: Ints
    """(S,) the label that each probably has."""


def suspected_label_errors(probabilities: ArrayLike, gold: ArrayLike) -> LabelErrors:
    """Examples off the diagonal of the confident joint (confident learning, Northcutt et al. 2021, equation 1).

    The threshold of a label is the mean probability of it over the examples that have it as gold label. An example is
    confidently of a label if its probability reaches the threshold, and of the most probable such label if there are
    several. It is suspected if that is not its gold label; as in the authors' cleanlab, examples whose gold label is at
    least as probable are left out. The order is by the difference of the two probabilities. The probabilities must be
    out of sample, such as from cross-validation: a model that has learnt a wrong label agrees with it.

    Args:
        probabilities: (N, L).
        gold: (N,) ids of the gold labels.
    """
    chance, truth = _distributions(probabilities, gold)
    labels = chance.shape[1]
    totals = np.bincount(truth, weights=chance[np.arange(len(truth)), truth], minlength=labels)
    counts = np.bincount(truth, minlength=labels)
    thresholds = np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)  # a label without examples has none
    confident = np.where(chance >= thresholds - ROUNDING, chance, -1.0)  # (N, L)
    suggested = confident.argmax(1)
    rows = np.arange(len(truth))
    margins = chance[rows, truth] - chance[rows, suggested]
    suspected = np.flatnonzero((confident.max(1) >= 0) & (margins < 0))
    order = suspected[np.argsort(margins[suspected], kind="stable")]
    return LabelErrors(order, suggested[order])


def _distributions(probabilities: ArrayLike, gold: ArrayLike) -> tuple[Floats, Ints]:
    """The probabilities (N, L) and the gold ids (N,), checked."""
    chance, _ = examples("mistakes", probabilities=probabilities, gold=gold)
    (truth,) = label_ids("mistakes", chance.shape[1], gold=gold)
    if chance.min() < 0 or np.abs(chance.sum(1) - 1).max() > 1e-3:
        raise InputError("mistakes: each row must be probabilities that add up to 1; were logits given?")
    return chance.astype(np.float64), truth
