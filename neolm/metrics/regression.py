"""Scores of predicted numbers. STS-B reports Pearson's and Spearman's correlation (Cer et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neolm.metrics.inputs import Floats, examples
from neolm.metrics.ranking import average_ranks


@dataclass(frozen=True)
class RegressionScores:
    """Correlations and errors of N predicted numbers."""

    pearson: float | None
    spearman: float | None
    mean_squared_error: float
    mean_absolute_error: float
    note: str
    """Why a correlation is 0 or None by definition; empty if it was computed."""


def regression_scores(gold: ArrayLike, predicted: ArrayLike) -> RegressionScores:
    """Scores of predictions (N,) of gold numbers (N,).

    scipy gives NaN where a correlation does not exist. Here it is 0 if the predictions are constant, which is the worst
    that a failed training can do, and None if the gold numbers are constant, which no prediction can follow; the note
    says which.
    """
    truth, guess = (array.astype(np.float64) for array in examples("regression", gold=gold, predicted=predicted))
    error = guess - truth
    mse, mae = float((error**2).mean()), float(np.abs(error).mean())
    if np.ptp(truth) == 0:
        return RegressionScores(None, None, mse, mae, "all gold numbers are the same: correlations are undefined")
    if np.ptp(guess) == 0:
        return RegressionScores(0.0, 0.0, mse, mae, "all predictions are the same: correlations are 0 by definition")
    ranks = average_ranks(truth), average_ranks(guess)
    return RegressionScores(_correlation(truth, guess), _correlation(*ranks), mse, mae, "")


def _correlation(x: Floats, y: Floats) -> float:
    """Pearson's correlation of two arrays (N,) that are not constant."""
    x, y = (values / np.abs(values).max() for values in (x, y))  # no overflow
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1, 1))
