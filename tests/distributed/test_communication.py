"""Time in communication, and the slowest rank."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.distributed.communication import covered, summary

PAIR = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted)


@given(pairs=st.lists(PAIR))
def test_overlapping_operations_count_once(pairs: list[list[int]]) -> None:
    cells = {cell for begin, end in pairs for cell in range(begin, end)}
    assert covered((float(begin), float(end)) for begin, end in pairs) == len(cells)


@pytest.mark.parametrize(
    ("ranks", "share", "slowest"),
    [
        ([(0.1, 1.0), (0.1, 1.0)], 0.1, None),
        ([(0.5, 1.0), (0.1, 1.0), (0.6, 1.0)], 0.4, 1),
        ([(0.0, 0.0)] * 2, 0.0, None),
    ],
)
def test_the_slowest_rank_waits_the_least(ranks: list[tuple[float, float]], share: float, slowest: int | None) -> None:
    found = summary(ranks)
    assert found.share == pytest.approx(share)
    assert found.slowest == slowest
    assert ("rank 1 is the slowest" in found.about()) == (slowest == 1)
