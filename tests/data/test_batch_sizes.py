"""Which examples a step reads: every one once, in order, in batches that only grow."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from neolm.data.batch_sizes import BatchSizes


def test_without_a_ramp_every_batch_is_full() -> None:
    sizes = BatchSizes(8)
    assert [sizes.examples(step) for step in (1, 2, 10**12)] == [
        range(8),
        range(8, 16),
        range(8 * (10**12 - 1), 8 * 10**12),
    ]
    assert [sizes.steps_for(n) for n in (1, 8, 9, 80)] == [1, 1, 2, 10]


def test_the_ramp_against_numbers_by_hand() -> None:
    sizes = BatchSizes(full=8, start=2, ramp=16)
    # 2 + 6 e/16 in multiples of 2: e = 0, 2, 4, 6, 10, 14 give 2, 2.75, 3.5, 4.25, 5.75, 7.25
    assert [len(sizes.examples(step)) for step in range(1, 9)] == [2, 2, 2, 4, 4, 6, 8, 8]
    assert sizes.examples(7) == range(20, 28)


@given(st.integers(1, 64), st.integers(0, 64), st.integers(0, 3000), st.integers(1, 5000))
def test_every_example_is_read_once_and_batches_only_grow(full: int, start: int, ramp: int, wanted: int) -> None:
    sizes = BatchSizes(full, min(start, full), ramp)
    steps = sizes.steps_for(wanted)
    ranges = [sizes.examples(step) for step in range(1, steps + 2)]
    assert ranges[0].start == 0
    assert all(a.stop == b.start and len(a) <= len(b) <= full for a, b in itertools.pairwise(ranges))
    assert all(ranges)
    assert ranges[steps - 1].start < wanted <= ranges[steps - 1].stop
    if ranges[-1].start >= ramp:
        assert len(ranges[-1]) == full
