"""Intervals: exact in simple cases, and with the confidence that they state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from neolm.core.errors import InputError
from neolm.metrics import intervals
from neolm.metrics.intervals import (
    Interval,
    bootstrap_ratio,
    bootstrap_score,
    over_seeds,
    paired_difference,
    wilson_interval,
)
from neolm.metrics.ranking import auroc


def test_equal_documents_have_no_spread() -> None:
    assert bootstrap_ratio([3.0] * 10, [4.0] * 10) == Interval(0.75, 0.75, 0.75)
    found = bootstrap_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])  # one ratio, different sizes
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_one_document_has_no_interval() -> None:
    assert bootstrap_ratio([3.0], [2.0]) == Interval(1.5, None, None)
    assert bootstrap_ratio([3.0, 0.0], [2.0, 0.0]) == Interval(1.5, None, None)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**6)), min_size=1, max_size=20), st.integers(0, 9))
def test_the_interval_is_deterministic_ordered_and_within_the_documents(
    documents: list[tuple[float, int]], seed: int
) -> None:
    above, below = [nats for nats, _ in documents], [float(size) for _, size in documents]
    if not any(below):
        return
    found = bootstrap_ratio(above, below, samples=100, seed=seed)
    assert found == bootstrap_ratio(above, below, samples=100, seed=seed)
    if found.low is not None and found.high is not None:
        ratios = [a / b for a, b in zip(above, below, strict=True) if b]
        slack = 1e-9 * max(1.0, *ratios)
        assert min(ratios) - slack <= found.low <= found.high <= max(ratios) + slack


def test_memory_is_bounded_and_every_sample_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    chooser = np.random.default_rng(0)
    above, below = chooser.random(50), chooser.random(50) + 0.5
    whole = bootstrap_ratio(above, below, samples=2000)
    monkeypatch.setattr(intervals, "MAX_DRAWN_INDICES", 50 * 7)
    parts = bootstrap_ratio(above, below, samples=2000)
    # The generator is read in the same order, so the pieces are the whole.
    assert parts == whole


def test_the_interval_contains_the_true_value_as_often_as_it_should() -> None:
    chooser = np.random.default_rng(1)
    hits, trials = 0, 300
    for trial in range(trials):
        sizes = chooser.lognormal(6, 0.5, 80)
        bits = sizes * chooser.normal(2.0, 0.4, 80)  # the true ratio is 2
        found = bootstrap_ratio(bits, sizes, samples=400, confidence=0.9, seed=trial)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 2.0 <= found.high
    assert 0.84 <= hits / trials <= 0.95


def test_parts_of_one_document_are_drawn_together() -> None:
    chooser = np.random.default_rng(2)
    sizes = chooser.lognormal(6, 0.5, 40)
    bits = sizes * chooser.normal(2.0, 0.4, 40)
    whole = bootstrap_ratio(bits, sizes)
    assert bootstrap_ratio(bits, sizes, [str(number) for number in range(40)]) == whole
    # Each document in five equal parts: the same information, so the same interval.
    parts, groups = np.repeat(bits / 5, 5), [str(number // 5) for number in range(200)]
    together = bootstrap_ratio(parts, np.repeat(sizes / 5, 5), groups)
    assert (together.low, together.high) == pytest.approx((whole.low, whole.high))
    apart = bootstrap_ratio(parts, np.repeat(sizes / 5, 5))
    assert apart.high - apart.low < 0.6 * (whole.high - whole.low)  # too narrow
    assert bootstrap_ratio([1.0, 2.0], [1.0, 1.0], ["book", "book"]) == Interval(1.5, None, None)
    assert bootstrap_ratio([1.0, 9.0, 2.0], [1.0, 0.0, 1.0], ["a", "a", "b"]) == bootstrap_ratio([1.0, 2.0], [1.0, 1.0])


def test_an_increasing_function_maps_the_interval() -> None:
    assert Interval(2.0, 1.0, None).map(lambda x: 3 * x) == Interval(6.0, 3.0, None)
    assert Interval(1.0, 0.5, float("inf")).as_json() == {"value": 1.0, "low": 0.5, "high": None}


def test_a_score_of_all_items_has_the_interval_of_the_ratio_where_it_is_one() -> None:
    values = np.random.default_rng(3).random(30)
    groups = [str(number // 3) for number in range(30)]
    for chosen in (None, groups):
        ratio = bootstrap_ratio(values, np.ones(30), chosen, samples=300, seed=5)
        found = bootstrap_score(lambda rows: float(values[rows].mean()), 30, chosen, samples=300, seed=5)
        assert (found.value, found.low, found.high) == pytest.approx((ratio.value, ratio.low, ratio.high))


def test_a_score_that_is_often_undefined_has_no_interval() -> None:
    def auroc_of(positives: int) -> Interval:
        gold, scores = np.arange(100) < positives, np.arange(100) % 7
        return bootstrap_score(lambda rows: auroc(gold[rows], scores[rows]), 100, samples=300)

    assert auroc_of(20).low is not None
    rare = auroc_of(1)  # a third of the draws has no positive item
    assert (rare.low, rare.high) == (None, None)
    assert 0 <= rare.value <= 1
    with pytest.raises(InputError, match="bootstrap: the score is undefined"):
        auroc_of(0)
    assert bootstrap_score(lambda rows: 0.5, 3, ["a", "a", "a"]) == Interval(0.5, None, None)


def test_items_that_are_hard_for_both_systems_add_no_spread() -> None:
    chooser = np.random.default_rng(4)
    hardness = chooser.random(200)
    better = hardness + 0.02 + 0.01 * chooser.normal(size=200)
    found = paired_difference(better, hardness)
    assert found.low is not None
    assert 0 < found.low < 0.02 < found.high
    apart = [bootstrap_ratio(scores, np.ones(200)) for scores in (better, hardness)]
    assert apart[0].low < apart[1].high  # the intervals of the systems on their own overlap
    assert paired_difference(hardness, better).value == pytest.approx(-found.value)
    same = paired_difference([1, 0, 1], [1, 0, 1])
    assert (same.value, same.low, same.high) == (0, 0, 0)


@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilsons_interval_is_scipys(total: int, successes: int, confidence: float) -> None:
    successes = min(successes, total)
    found = wilson_interval(successes, total, confidence)
    expected = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1
    mirrored = wilson_interval(total - successes, total, confidence)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def test_the_interval_of_a_rate_of_0_or_1_contains_it() -> None:
    for total in range(1, 200):
        assert wilson_interval(0, total).low == 0
        assert wilson_interval(total, total).high == 1


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="rate: there are no examples"):
        wilson_interval(0, 0)


def test_scores_over_seeds_keep_the_failed_ones() -> None:
    found = over_seeds([0.9, 0.5, 0.92, 0.91], [False, True, False, False])
    assert (found.median, found.lowest, found.highest, found.runs, found.failed) == (0.905, 0.5, 0.92, 4, 1)
    assert found.deviation == pytest.approx(np.std([0.9, 0.5, 0.92, 0.91], ddof=1))
    assert over_seeds([0.5], [False]).deviation is None
    with pytest.raises(InputError, match=r"score of example 1 .* is not a finite number"):
        over_seeds([0.9, float("nan")], [False, True])
