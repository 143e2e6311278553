"""AUROC, average precision and thresholds: against scikit-learn, ties included, and by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn import metrics as oracle

from neolm.core.errors import InputError
from neolm.metrics.counts import multilabel_counts
from neolm.metrics.ranking import auroc, average_precision, average_ranks, operating_points
from neolm.metrics.thresholds import abstention_threshold, best_f1_threshold, costs, threshold_at_precision

# Few distinct scores, so that most lists have ties.
EXAMPLES = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])), min_size=1, max_size=30)
Examples = list[tuple[bool, float]]


@given(st.lists(st.integers(-5, 5) | st.floats(-1e300, 1e300), min_size=1))
def test_equal_values_share_their_ranks(values: list[float]) -> None:
    assert average_ranks(values).tolist() == rankdata(values).tolist()


@given(EXAMPLES)
def test_scores_of_an_order_are_those_of_scikit_learn(examples: Examples) -> None:
    gold, scores = (np.array(column) for column in zip(*examples, strict=True))
    area, average = auroc(gold, scores), average_precision(gold, scores)
    if gold.any() and not gold.all():
        assert area == pytest.approx(oracle.roc_auc_score(gold, scores))
        assert area == auroc(gold, 7 * scores - 3)  # logits or probabilities
        assert auroc(~gold, scores) == pytest.approx(1 - area)
    else:
        assert area is None
    assert average == (pytest.approx(oracle.average_precision_score(gold, scores)) if gold.any() else None)


@given(EXAMPLES)
def test_operating_points_are_all_thresholds(examples: Examples) -> None:
    gold, scores = (np.array(column) for column in zip(*examples, strict=True))
    points = operating_points(gold, scores)
    for index, threshold in enumerate(points.thresholds):
        predicted = scores >= threshold
        assert (points.right[index], points.predicted[index]) == ((gold & predicted).sum(), predicted.sum())
        assert points.f1[index] == pytest.approx(oracle.f1_score(gold, predicted, zero_division=0))
        assert costs(points, 2, 5)[index] == (2 * (predicted & ~gold).sum() + 5 * (gold & ~predicted).sum()) / len(gold)
    assert points.predicted[0] == 0
    assert points.predicted[-1] == len(gold)


@given(EXAMPLES, st.sampled_from([0.3, 0.5, 2 / 3, 0.75, 0.9, 0.95, 1.0]))
def test_thresholds_do_what_they_say(examples: Examples, precision: float) -> None:
    gold, scores = (np.array(column) for column in zip(*examples, strict=True))
    every = {score: oracle.f1_score(gold, scores >= score, zero_division=0) for score in scores.tolist()}
    best = best_f1_threshold(gold, scores)
    assert best.f1 == pytest.approx(max(every.values()))
    assert (best.value is None) == (not gold.any())
    precise = threshold_at_precision(gold, scores, precision)
    reaching = [score for score in every if gold[scores >= score].mean() >= precision]
    assert precise.value == min(reaching, default=None)
    if precise.value is not None:
        assert precise.precision == gold[scores >= precise.value].mean()
        assert precise.predicted == (scores >= precise.value).sum()
        assert precise.recall == gold[scores >= precise.value].sum() / gold.sum()
    else:
        assert precise.precision == max(gold[scores >= score].mean() for score in every) < precision
        assert (precise.recall, precise.f1, precise.predicted) == (0, 0, 0)


def test_the_lowest_threshold_at_a_precision_may_lie_below_one_that_misses_it() -> None:
    found = threshold_at_precision([0, 1, 1, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.1], 0.75)
    assert (found.value, found.precision, found.recall, found.predicted) == (0.6, 0.75, 1.0, 4)


def test_abstention_keeps_the_error_rate() -> None:
    correct, confidence = [1] * 19 + [0, 0], [0.9] * 20 + [0.5]
    found = abstention_threshold(correct, confidence, 0.05)
    assert (found.confidence, found.coverage) == (0.9, 20 / 21)
    assert found.error == pytest.approx(0.05)
    third = abstention_threshold([1, 1, 0], [0.9, 0.9, 0.9], 1 / 3)  # 1 - 1 / 3 is above 2 / 3 in the last bit
    assert (third.confidence, third.coverage) == (0.9, 1.0)
    none = abstention_threshold(correct, confidence, 0.01)
    assert (none.confidence, none.coverage) == (None, 0.0)
    assert none.error == pytest.approx(0.05)
    everything = abstention_threshold(correct, confidence, 0.2)
    assert (everything.confidence, everything.coverage) == (0.5, 1.0)


def test_empty_and_broken_inputs_are_named() -> None:
    with pytest.raises(InputError, match="AUROC: there are no examples"):
        auroc([], [])
    with pytest.raises(InputError, match=r"thresholds: scores of example 1 .* is not a finite number"):
        best_f1_threshold([True, False], [0.5, np.nan])
    with pytest.raises(InputError, match="there are 2 gold, 1 scores"):
        average_precision([True, False], [0.5])
    with pytest.raises(InputError, match="AUROC: scores is missing for some examples"):
        auroc([True, False], [0.5, None])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, -1], "gold of example 1 is -1; it must be 0 or 1"),
        ([2, 1], "gold of example 0 is 2; it must be 0 or 1"),
        ([1.0, 0.5], "gold of example 1 is 0.5; it must be 0 or 1"),
        (["0", "1"], "gold of example 0 is '0'; it must be 0 or 1"),
        ([True, None], "gold is missing for some examples"),
    ],
)
def test_labels_that_would_be_taken_for_true_or_false_are_refused(labels: list[object], message: str) -> None:
    for score in (auroc, average_precision, best_f1_threshold):
        with pytest.raises(InputError, match=message):
            score(labels, [0.1, 0.2])
    with pytest.raises(InputError, match=message):
        multilabel_counts(np.array(labels)[:, None], [[True], [False]])
