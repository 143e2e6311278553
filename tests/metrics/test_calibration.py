"""Calibration: errors by hand, and temperatures against scipy's minimiser."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from neolm.core.errors import InputError
from neolm.metrics.calibration import (
    expected_calibration_error,
    fit_sigmoid_temperature,
    fit_softmax_temperature,
    reliability_table,
    top_label,
)


def test_bins_and_error_by_hand() -> None:
    chance, outcome = [0.0, 0.1, 0.5, 0.6, 0.9, 1.0], [0, 1, 1, 0, 1, 1]
    table = reliability_table(chance, outcome, bins=2)  # [0, 0.5] and (0.5, 1]
    assert [(row.low, row.high, row.count) for row in table] == [(0, 0.5, 3), (0.5, 1, 3)]
    assert [row.probability for row in table] == pytest.approx([0.2, 2.5 / 3])
    assert [row.rate.value for row in table] == pytest.approx([2 / 3, 2 / 3])
    assert expected_calibration_error(table) == pytest.approx(((2 / 3 - 0.2) + (2.5 / 3 - 2 / 3)) / 2)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_the_error_by_its_definition(rows: list[tuple[float, bool]], bins: int) -> None:
    chance, outcome = (np.array(column) for column in zip(*rows, strict=True))
    edges = np.linspace(0, 1, bins + 1)
    error = 0.0
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = (chance <= high) & ((chance > low) | (number == 0))
        if inside.any():
            error += inside.mean() * abs(outcome[inside].mean() - chance[inside].mean())
    table = reliability_table(chance, outcome, bins)
    assert expected_calibration_error(table) == pytest.approx(error)
    assert 0 <= error <= 1
    assert sum(row.count for row in table) == len(rows)


def overconfident(seed: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits `factor` times as large as those that the labels were drawn from."""
    chooser = np.random.default_rng(seed)
    logits = chooser.normal(size=(400, 4)) * 1.5
    gold = np.array([chooser.choice(4, p=row) for row in softmax(logits, axis=1)])
    return factor * logits, gold


def likeliest(likelihood: Callable[[float], float]) -> float:
    """The temperature with the highest likelihood, by scipy."""
    return float(np.exp(minimize_scalar(lambda x: -likelihood(np.exp(x)), bounds=(-5, 5), options={"xatol": 1e-9}).x))


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_temperature_is_the_likeliest(seed: int, factor: float) -> None:
    logits, gold = overconfident(seed, factor=factor)
    found = fit_softmax_temperature(logits, gold)
    rows = np.arange(len(gold))
    best = likeliest(lambda temperature: log_softmax(logits / temperature, axis=1)[rows, gold].sum())
    assert found.found
    assert found.value == pytest.approx(best, rel=1e-4)
    assert found.value == pytest.approx(factor, rel=0.25)  # and it undoes the factor
    before, after = (
        expected_calibration_error(reliability_table(*top_label(softmax(logits / value, axis=1), gold)))
        for value in (1, found.value)
    )
    if factor >= 3:
        assert after < before / 2


@pytest.mark.parametrize("factor", [0.3, 1.0, 5.0])
def test_the_sigmoid_temperature_is_the_likeliest(factor: float) -> None:
    chooser = np.random.default_rng(2)
    logits = chooser.normal(size=2000) * 2
    gold = chooser.random(2000) < 1 / (1 + np.exp(-logits))
    found = fit_sigmoid_temperature(factor * logits, gold)
    signs = np.where(gold, 1, -1)
    best = likeliest(lambda temperature: -np.logaddexp(0, -signs * factor * logits / temperature).sum())
    assert found.value == pytest.approx(best, rel=1e-4)
    assert found.value == pytest.approx(factor, rel=0.1)
    # Two labels with softmax are one with sigmoid of the difference.
    pairs = np.stack([np.zeros(2000), factor * logits], axis=1)
    assert fit_softmax_temperature(pairs, gold.astype(int)).value == pytest.approx(found.value, rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "gold"),
    [
        ([[2.0, 1.0], [0.0, 3.0]], [0, 1]),  # all right: ever sharper
        ([[2.0, 1.0], [0.0, 3.0]], [1, 0]),  # all wrong: ever flatter
        ([[500.0, 0.0]], [0]),
        ([[1.0, 1.0]], [0]),  # no difference at all
        ([[2.0, 2.0], [0.0, 3.0]], [0, 1]),  # a tie that no temperature decides
    ],
)
def test_a_temperature_that_does_not_exist_is_said(logits: list[list[float]], gold: list[int]) -> None:
    found = fit_softmax_temperature(logits, gold)
    assert (found.value, found.found) == (1.0, False)
    margins = [row[1] - row[0] for row in logits]
    assert fit_sigmoid_temperature(margins, gold) == found


def test_extreme_logits_do_not_overflow() -> None:
    logits = [[1e4, 0.0], [0.0, 1e4], [1e4, 0.0]]
    found = fit_softmax_temperature(logits, [0, 1, 1])
    assert not found.found  # the optimum, 14427, is beyond what is looked at
    assert fit_sigmoid_temperature([-1e4, 1e4, -1e4], [0, 1, 1]) == found


def test_bad_inputs_are_named() -> None:
    with pytest.raises(InputError, match="are not probabilities; were logits given"):
        reliability_table([0.5, 1.5], [0, 1])
    with pytest.raises(InputError, match="calibration: there are no examples"):
        reliability_table([], [])
    with pytest.raises(InputError, match="temperature: gold of example 0 is 2, but the ids are 0 to 1"):
        fit_softmax_temperature([[0.0, 1.0]], [2])
