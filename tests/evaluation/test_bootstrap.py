"""Intervals: exact in simple cases, and with the confidence that they state."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.evaluation import bootstrap
from neolm.evaluation.bootstrap import Interval, bootstrap_ratio


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
    monkeypatch.setattr(bootstrap, "MAX_DRAWN_INDICES", 50 * 7)
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
