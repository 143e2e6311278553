"""Correlations and errors, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from neolm.core.errors import InputError
from neolm.metrics.regression import regression_scores


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-20, 20).map(lambda x: x / 4)), min_size=2, max_size=30))
def test_scores_are_those_of_scipy(pairs: list[tuple[int, float]]) -> None:
    gold, predicted = np.array(pairs).T
    found = regression_scores(gold, predicted)
    assert found.mean_squared_error == pytest.approx(((gold - predicted) ** 2).mean())
    assert found.mean_absolute_error == pytest.approx(np.abs(gold - predicted).mean())
    if len(set(gold)) > 1 and len(set(predicted)) > 1:
        assert found.pearson == pytest.approx(stats.pearsonr(gold, predicted).statistic, abs=1e-12)
        assert found.spearman == pytest.approx(stats.spearmanr(gold, predicted).statistic, abs=1e-12)
        assert found.note == ""
        assert regression_scores(gold, 5 - 3 * predicted).pearson == pytest.approx(-found.pearson, abs=1e-12)


def test_constant_numbers_are_said() -> None:
    failed = regression_scores([1, 2, 3], [2.5, 2.5, 2.5])
    assert (failed.pearson, failed.spearman) == (0.0, 0.0)
    assert failed.note == "all predictions are the same: correlations are 0 by definition"
    undefined = regression_scores([2, 2, 2], [1, 2, 3])
    assert (undefined.pearson, undefined.spearman) == (None, None)
    assert undefined.note == "all gold numbers are the same: correlations are undefined"
    assert undefined.mean_squared_error == pytest.approx(2 / 3)
    assert regression_scores([1], [2]).pearson is None


def test_tiny_numbers_do_not_vanish() -> None:
    assert regression_scores([1e-200, 2e-200, 3e-200], [1, 2, 4]).pearson == pytest.approx(0.98198, abs=1e-5)


def test_bad_numbers_are_named() -> None:
    with pytest.raises(InputError, match="regression: there are no examples"):
        regression_scores([], [])
    with pytest.raises(InputError, match=r"regression: predicted of example 1 .* is not a finite number"):
        regression_scores([1.0, 2.0], [1.0, np.inf])
