"""The places of the processes of a training on the axes by which they divide it.

From the outermost axis to the innermost: `pipeline` divides the layers, `copies` repeats the model, `shard` divides
weights and optimiser state, `context` divides sequences, `tensor` divides matrices. Processes that differ in `copies`
or `shard` train on different examples; those that differ in `tensor` are neighbours, because they communicate the most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

AXES = ("pipeline", "copies", "shard", "context", "tensor")
DATA = ("copies", "shard")


class RankGrid:
    """A grid of `sizes` processes; the axes that it does not name have a single place."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = {axis: sizes.get(axis, 1) for axis in AXES}
        self.count = math.prod(self.sizes.values())

    def place(self, rank: int) -> dict[str, int]:
        """The place of `rank` on each axis."""
        place = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, self.sizes[axis])
        return {axis: place[axis] for axis in AXES}

    def groups(self, axes: Sequence[str]) -> list[list[int]]:
        """All groups of ranks that differ in nothing but their places on `axes`; each rank is in one of them."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.count):
            place = self.place(rank)
            groups.setdefault(tuple(place[axis] for axis in AXES if axis not in axes), []).append(rank)
        return [*groups.values()]

    def size(self, axes: Sequence[str]) -> int:
        """Number of ranks in each of `groups(axes)`."""
        return math.prod(self.sizes[axis] for axis in axes)

    def number(self, rank: int, axes: Sequence[str]) -> int:
        """Place of `rank` in its group of `groups(axes)`."""
        return next(group.index(rank) for group in self.groups(axes) if rank in group)
