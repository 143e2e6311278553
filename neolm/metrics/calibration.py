"""Calibration: whether of the predictions with probability 0.8 about 80% are right, and a temperature that mends it.

Follows Guo et al. 2017, "On Calibration of Modern Neural Networks": bins of equal width, and temperature scaling, which
divides all logits by one number, so that no predicted label changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neolm.core.errors import InputError
from neolm.metrics.inputs import Floats, booleans, examples, label_ids
from neolm.metrics.intervals import Interval, wilson_interval

BINS = 15  # Guo et al. 2017
MAX_DOUBLINGS = 10  # temperatures from about 1 / 500 to 500 are looked at
BISECTIONS = 50  # the inverse temperature is exact to 2**-50 of its size


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions with a probability in (low, high]; the first bin includes 0."""

    low: float
    high: float
    count: int
    probability: float
    """Mean of the predicted probabilities."""
    rate: Interval
    """Share of the outcomes that are true, with Wilson's interval."""


def reliability_table(probabilities: ArrayLike, outcomes: ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """The bins of equal width that have predictions.

    For one label of several, the arguments are the probability of the predicted label and whether it is right
    (`top_label`). For a label on its own, they are its probability and whether the example has it.

    Args:
        probabilities: (N,) from 0 to 1.
        outcomes: (N,) whether what was predicted is true.
        bins: Number of bins between 0 and 1.
    """
    chance, _ = examples("calibration", probabilities=probabilities, outcomes=outcomes)
    (outcome,) = booleans("calibration", outcomes=outcomes)
    if chance.min() < 0 or chance.max() > 1:
        raise InputError(f"calibration: {chance.min()} to {chance.max()} are not probabilities; were logits given?")
    edges = np.linspace(0, 1, bins + 1)
    place = np.maximum(np.searchsorted(edges, chance, side="left") - 1, 0)
    rows = []
    for index in np.unique(place):
        inside = place == index
        count = int(inside.sum())
        rate = wilson_interval(int(outcome[inside].sum()), count)
        mean = float(chance[inside].mean())
        rows.append(ReliabilityBin(float(edges[index]), float(edges[index + 1]), count, mean, rate))
    return rows


def expected_calibration_error(table: Sequence[ReliabilityBin]) -> float:
    """ECE: mean over the predictions of |rate - mean probability| of their bin."""
    total = sum(row.count for row in table)
    return sum(row.count * abs(row.rate.value - row.probability) for row in table) / total


def top_label(probabilities: ArrayLike, gold: ArrayLike) -> tuple[Floats, Floats]:
    """Probability of the predicted label, and whether it is right; (N,) each, from (N, L) and gold ids (N,)."""
    chance, _ = examples("calibration", probabilities=probabilities, gold=gold)
    (truth,) = label_ids("calibration", chance.shape[1], gold=gold)
    return chance.max(1), chance.argmax(1) == truth


@dataclass(frozen=True)
class Temperature:
    """The number that logits are divided by before softmax or sigmoid."""

    value: float
    """1 if none was found."""
    found: bool
    """False if the likelihood has no maximum, which the caller says: all examples are right, so that it grows with ever
    sharper probabilities, or the logits are no better than none, so that it grows with ever flatter ones."""


def fit_softmax_temperature(logits: ArrayLike, gold: ArrayLike) -> Temperature:
    """The temperature with the highest likelihood of a validation set, for one label of several.

    Args:
        logits: (N, L).
        gold: (N,) ids of the gold labels.
    """
    scores, _ = examples("temperature", logits=logits, gold=gold)
    (truth,) = label_ids("temperature", scores.shape[1], gold=gold)
    scores = scores.astype(np.float64)
    margins = scores - scores[np.arange(len(truth)), truth][:, None]  # (N, L) to the gold label

    def slope(inverse: float) -> float:
        weights = np.exp(inverse * (margins - margins.max(1, keepdims=True)))
        return float(((weights * margins).sum(1) / weights.sum(1)).mean())

    return _temperature(slope)


def fit_sigmoid_temperature(logits: ArrayLike, gold: ArrayLike) -> Temperature:
    """The temperature with the highest likelihood of a validation set, for labels that each are true or not.

    Args:
        logits: (N,) of one label, or of all pairs of example and label whose gold label is known.
        gold: (N,) whether the label is true.
    """
    scores, _ = examples("temperature", logits=logits, gold=gold)
    (truth,) = booleans("temperature", gold=gold)
    margins = np.where(truth, -1.0, 1.0) * scores  # of the wrong answer over the right one

    def slope(inverse: float) -> float:
        chance_wrong = 0.5 * (1 + np.tanh(0.5 * inverse * margins))  # the sigmoid, without overflow
        return float((chance_wrong * margins).mean())

    return _temperature(slope)


def _temperature(slope: Callable[[float], float]) -> Temperature:
    """The temperature at which the slope of the loss is 0.

    The loss is the negative log-likelihood as a function of 1 / temperature. It is convex, so that its slope only
    grows: the root is bracketed by doubling, and the bracket is halved. Without a change of sign there is no minimum.
    """
    low = high = 1.0
    for _ in range(MAX_DOUBLINGS):
        if slope(low) <= 0 < slope(high):
            break
        low, high = (low / 2, low) if slope(low) > 0 else (high, high * 2)
    else:
        return Temperature(1.0, found=False)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return Temperature(2 / (low + high), found=True)
