"""Permuted labels: the assignment against scipy, and what counts as suspicious."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from neolm.metrics.classification import confusion_matrix
from neolm.metrics.relabelling import best_assignment, suspected_relabelling


@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_the_assignment_is_as_good_as_scipys(size: int, seed: int, largest: int) -> None:
    gain = np.random.default_rng(seed).integers(-largest, largest + 1, (size, size))
    columns = best_assignment(gain)
    assert sorted(columns) == list(range(size))
    assert gain[np.arange(size), columns].sum() == gain[linear_sum_assignment(gain, maximize=True)].sum()


@settings(max_examples=5)
@given(st.sampled_from([2, 3, 77, 200]), st.integers(0, 100))
def test_a_permutation_is_found_and_named(labels: int, seed: int) -> None:
    chooser = np.random.default_rng(seed)
    gold = chooser.permutation(np.arange(20 * labels) % labels)
    order = np.roll(np.arange(labels), 1)  # the model's id of each gold label
    predicted = np.where(chooser.random(len(gold)) < 0.95, order[gold], chooser.integers(labels, size=len(gold)))
    found = suspected_relabelling(confusion_matrix(gold, predicted, labels))
    assert found is not None
    assert found.gold_of == tuple(np.argsort(order))
    assert found.accuracy < 0.2
    assert found.best_accuracy > 0.8
    right = suspected_relabelling(confusion_matrix(gold, np.argsort(order)[predicted], labels))
    assert right is None


def test_the_message_names_only_labels_that_move() -> None:
    gold = [0] * 10 + [3] * 10 + [4] * 4
    predicted = [3] * 10 + [0] * 10 + [4] * 4
    found = suspected_relabelling(confusion_matrix(gold, predicted, 5))  # labels 1 and 2 do not occur
    assert found is not None
    assert found.describe(["entailment", "x", "y", "neutral", "contradiction"]) == (
        "the labels of the model seem to be in another order: accuracy is 0.167, and 1.000 if its 'entailment' means "
        "'neutral', 'neutral' means 'entailment'"
    )


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        ([0] * 95 + [1] * 5, [1] * 100),  # a constant prediction: exchanged, it would be the majority label
        ([0] * 5 + [1] * 5, [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]),  # chance
        ([0] * 5 + [1] * 5, [0, 1, 1, 1, 1, 0, 0, 0, 1, 1]),  # 0.7 when exchanged: not high
    ],
)
def test_a_bad_model_is_not_called_permuted(gold: list[int], predicted: list[int]) -> None:
    assert suspected_relabelling(confusion_matrix(gold, predicted, 2)) is None
