"""The places of ranks on the axes of a training."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neolm.training.rank_grid import AXES, DATA, RankGrid

SIZES = st.fixed_dictionaries({axis: st.integers(1, 3) for axis in AXES})


@given(sizes=SIZES, axes=st.sets(st.sampled_from(AXES)))
def test_groups_divide_the_ranks_into_equal_parts(sizes: dict[str, int], axes: set[str]) -> None:
    grid, chosen = RankGrid(sizes), sorted(axes)
    groups = grid.groups(chosen)
    assert sorted(rank for group in groups for rank in group) == [*range(grid.count)]
    assert {len(group) for group in groups} == {grid.size(chosen)}
    for group in groups:
        assert [grid.number(rank, chosen) for rank in group] == [*range(len(group))]
        others = [{axis: at for axis, at in grid.place(rank).items() if axis not in axes} for rank in group]
        assert all(place == others[0] for place in others)


def test_places_of_the_ranks() -> None:
    grid = RankGrid({"pipeline": 2, "shard": 2, "tensor": 2})
    assert grid.groups(["tensor"]) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert grid.groups(DATA) == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert grid.groups(["pipeline"]) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert grid.place(6) == {"pipeline": 1, "copies": 0, "shard": 1, "context": 0, "tensor": 0}
