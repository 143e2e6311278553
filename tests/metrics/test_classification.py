"""Scores from the confusion matrix and from counts, against scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from neolm.core.errors import InputError
from neolm.metrics.classification import (
    accuracy,
    balanced_accuracy,
    classification_scores,
    confusion_matrix,
    has_failed,
    label_counts,
    majority_rate,
    matthews_correlation,
)
from neolm.metrics.counts import PrecisionRecall, multilabel_counts

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def quietly(function: Callable[..., object], *arguments: object, **settings: object) -> object:
    """The oracle's answer without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **settings)


def assert_scores(found: PrecisionRecall, gold: object, predicted: object, average: str | None, labels: object) -> None:
    settings = {"average": average, "labels": labels, "zero_division": 0}
    expected = quietly(oracle.precision_recall_fscore_support, gold, predicted, **settings)
    for ours, theirs in zip((found.precision, found.recall, found.f1), expected, strict=False):
        assert ours == pytest.approx(theirs)


@given(PAIRS)
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = np.array(pairs).T
    matrix = confusion_matrix(gold, predicted, 5)
    assert matrix.tolist() == quietly(oracle.confusion_matrix, gold, predicted, labels=range(5)).tolist()
    assert accuracy(matrix) == pytest.approx(oracle.accuracy_score(gold, predicted))
    assert balanced_accuracy(matrix) == pytest.approx(quietly(oracle.balanced_accuracy_score, gold, predicted))
    assert matthews_correlation(matrix) == pytest.approx(quietly(oracle.matthews_corrcoef, gold, predicted), abs=1e-12)
    counts = label_counts(matrix)
    assert_scores(counts.by_label(), gold, predicted, None, range(5))
    for average, found in (("macro", counts.macro()), ("micro", counts.micro()), ("weighted", counts.weighted())):
        assert_scores(found, gold, predicted, average, None)


@given(PAIRS, st.permutations(range(5)), st.randoms())
def test_names_of_labels_and_order_of_examples_do_not_matter(
    pairs: list[tuple[int, int]], names: list[int], chooser: object
) -> None:
    before = classification_scores(confusion_matrix(*np.array(pairs).T, 5))
    chooser.shuffle(pairs)
    after = classification_scores(confusion_matrix(*np.array(names)[np.array(pairs)].T, 5))
    assert after == pytest.approx(before)
    assert all(-1 <= before[name] <= 1 and (name == "matthews" or before[name] >= 0) for name in before)


def test_a_perfect_and_a_constant_prediction() -> None:
    perfect = confusion_matrix([0, 1, 2, 0], [0, 1, 2, 0], 3)
    scores = classification_scores(perfect)
    assert scores.pop("majority_rate") == 0.5
    assert set(scores.values()) == {1.0}
    assert not has_failed(perfect)
    constant = confusion_matrix([0, 1, 2, 0], [0, 0, 0, 0], 3)
    assert has_failed(constant)
    assert accuracy(constant) == majority_rate(constant) == 0.5
    assert matthews_correlation(constant) == 0
    assert balanced_accuracy(constant) == pytest.approx(1 / 3)
    assert has_failed(confusion_matrix([0, 0, 0, 1], [1, 1, 1, 1], 2))  # constant, but not the majority label
    assert not has_failed(confusion_matrix([0, 0], [0, 0], 2))  # the gold labels do not differ


def test_rare_labels_do_not_make_a_useful_classifier_a_failed_one() -> None:
    gold = np.arange(1000) < 3
    predicted = np.arange(1000) < 9  # all three found; accuracy below the majority rate
    matrix = confusion_matrix(gold.astype(int), predicted.astype(int), 2)
    assert accuracy(matrix) < majority_rate(matrix)
    assert not has_failed(matrix)


@pytest.mark.parametrize(
    ("gold", "predicted", "message"),
    [
        ([], [], "classification: there are no examples"),
        ([0, 1], [0], "each example needs one value of each kind, but there are 2 gold, 1 predicted"),
        ([0, 1], [0, 2], r"predicted of example 1 is 2, but the ids are 0 to 1"),
        ([0, -1], [0, 1], r"gold of example 1 is -1"),
        ([0.0, 1.0], [0, 1], "whole numbers, the ids of labels, not float64"),
        (["a", "b"], [0, 1], "whole numbers"),
    ],
)
def test_bad_labels_are_named(gold: list[object], predicted: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        confusion_matrix(gold, predicted, 2)


@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=20))
def test_multi_label_scores_are_those_of_scikit_learn(rows: list[tuple[bool, ...]]) -> None:
    gold, predicted = np.array(rows)[:, :3], np.array(rows)[:, 3:]
    counts = multilabel_counts(gold, predicted)
    assert_scores(counts.by_label(), gold, predicted, None, None)
    assert_scores(counts.micro(), gold, predicted, "micro", None)
    assert_scores(counts.weighted(), gold, predicted, "weighted", None)
    present = np.flatnonzero(counts.present)
    if len(present):
        assert_scores(counts.macro(), gold, predicted, "macro", present)
    else:
        assert float(counts.macro().f1) == 0


@given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=20))
def test_pairs_whose_gold_label_is_unknown_are_left_out(rows: list[tuple[bool, bool, bool]]) -> None:
    gold, predicted, known = np.array(rows).T
    found = multilabel_counts(gold[:, None], predicted[:, None], known[:, None])
    if known.any():
        expected = multilabel_counts(gold[known][:, None], predicted[known][:, None])
        assert (found.right, found.predicted, found.gold) == (expected.right, expected.predicted, expected.gold)
    else:
        assert found.predicted + found.gold == 0
