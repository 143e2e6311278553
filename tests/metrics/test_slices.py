"""Scores by slice, the worst mistakes and suspected label errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.metrics.intervals import bootstrap_ratio, wilson_interval
from neolm.metrics.mistakes import suspected_label_errors, worst_mistakes
from neolm.metrics.slices import score_by_slice


def test_rates_have_wilsons_interval_and_the_lowest_is_first() -> None:
    table = score_by_slice([1, 0, 1, 1, 0, 0], ["a", "a", "b", "b", "", ""])
    assert [(row.name, row.count, row.score) for row in table] == [
        ("", 2, wilson_interval(0, 2)),
        ("a", 2, wilson_interval(1, 2)),
        ("b", 2, wilson_interval(2, 2)),
    ]


def test_other_values_and_groups_have_a_bootstrap() -> None:
    values, slices = [0.5, 0.25, 1.0, 1.0], ["a", "a", "a", "b"]
    table = score_by_slice(values, slices, samples=200)
    assert table[0].score == bootstrap_ratio(values[:3], [1.0] * 3, samples=200)
    assert (table[1].score.value, table[1].score.low) == (1.0, None)
    grouped = score_by_slice([1, 0, 1, 1], slices, groups=["x", "x", "y", "y"], samples=200)
    assert grouped[0].score == bootstrap_ratio([1, 0, 1], [1.0] * 3, ["x", "x", "y"], samples=200)


def test_empty_slices_are_refused() -> None:
    with pytest.raises(InputError, match="slices: there are no examples"):
        score_by_slice([], [])
    with pytest.raises(InputError, match="there are 1 values, 2 slices"):
        score_by_slice([1], ["a", "b"])


def test_the_worst_mistakes_are_the_most_confident() -> None:
    chance = [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]
    assert worst_mistakes(chance, [1, 0, 0, 0, 1]).tolist() == [0, 1, 3, 2]  # equal ones in order
    assert worst_mistakes(chance, [1, 0, 0, 0, 1], limit=2).tolist() == [0, 1]
    assert worst_mistakes(chance, [0, 1, 1, 1, 1]).tolist() == []


def test_label_errors_by_hand() -> None:
    # Thresholds, the mean self-confidences: label 0 (0.9 + 0.7 + 0.2) / 3 = 0.6, label 1 (0.8 + 0.6) / 2 = 0.7.
    chance = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8], [0.4, 0.6]])
    found = suspected_label_errors(chance, [0, 0, 0, 1, 1])
    assert (found.indices.tolist(), found.suggested.tolist()) == ([2], [1])
    # Label 1 is not confident enough for the last two when its threshold is 0.85.
    chance[3] = [0.05, 0.95]
    chance[4] = [0.25, 0.75]
    assert suspected_label_errors(chance, [0, 0, 0, 1, 1]).indices.tolist() == []


@given(st.integers(0, 1000))
def test_flipped_labels_are_found(seed: int) -> None:
    chooser = np.random.default_rng(seed)
    truth = np.arange(60) % 3
    chance = np.full((60, 3), 0.1) + 0.7 * np.eye(3)[truth]
    chance += chooser.uniform(0, 0.02, chance.shape)
    chance /= chance.sum(1, keepdims=True)
    flipped = 3 * chooser.integers(20, size=3) + np.arange(3)  # one of each label
    gold = truth.copy()
    gold[flipped] = (truth[flipped] + 1) % 3
    found = suspected_label_errors(chance, gold)
    assert set(found.indices) == set(flipped)
    assert found.suggested.tolist() == truth[found.indices].tolist()
    margins = chance[found.indices, gold[found.indices]] - chance[found.indices, found.suggested]
    assert (np.diff(margins) >= 0).all()


def test_a_label_without_examples_is_never_suggested_and_equal_probabilities_are_not_suspected() -> None:
    assert suspected_label_errors([[0.1, 0.1, 0.8]] * 3, [0, 1, 1]).indices.tolist() == []
    assert suspected_label_errors([[0.7, 0.3]] * 3, [0, 0, 0]).indices.tolist() == []


def test_a_probability_reaches_the_mean_of_its_equals() -> None:
    assert sum([0.72] * 3) / 3 > 0.72
    found = suspected_label_errors([[0.28, 0.72]] * 4 + [[0.9, 0.1]], [1, 1, 1, 0, 0])
    assert found.indices.tolist() == [3]


def test_logits_are_refused() -> None:
    with pytest.raises(InputError, match="probabilities that add up to 1; were logits given"):
        worst_mistakes([[3.0, -1.0]], [0])
    with pytest.raises(InputError, match="mistakes: there are no examples"):
        suspected_label_errors(np.zeros((0, 2)), [])
