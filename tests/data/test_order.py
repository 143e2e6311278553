import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from neolm.data.order import Permutation


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 10))
def test_every_example_once(size: int, seed: int, epoch: int) -> None:
    found = Permutation(size, seed, epoch)(np.arange(size))
    assert np.array_equal(np.sort(found), np.arange(size))


@given(st.integers(100, 10**12), st.integers(0, 2**32), st.lists(st.integers(0, 99), min_size=1, max_size=20))
def test_a_position_does_not_depend_on_the_others(size: int, seed: int, indices: list[int]) -> None:
    permutation = Permutation(size, seed, 0)
    together = permutation(np.array(indices))
    assert together.tolist() == [int(permutation(np.array([i]))[0]) for i in indices]
    assert (together >= 0).all()
    assert (together < size).all()


def test_seeds_and_epochs_give_different_orders_that_look_random() -> None:
    size = 10_000
    orders = [Permutation(size, seed, epoch)(np.arange(size)) for seed in (0, 1) for epoch in (0, 1)]
    for a in range(4):
        for b in range(a):
            assert (orders[a] == orders[b]).mean() < 0.01
    for order in orders:
        assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.05
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
