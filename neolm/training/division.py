"""How tensor parallelism divides a tensor over processes, and the whole tensor from their parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

Range = tuple[int, int]
"""First row, and the row after the last one."""


@dataclass(frozen=True)
class Division:
    """Rows (or columns) of a whole tensor in each process of `group`.

    A matrix of several layers, such as that of queries, keys and values, has equal blocks of rows, each of which is
    divided.
    """

    size: torch.Size
    """Of the whole tensor."""
    dim: int
    ranges: tuple[tuple[Range, ...], ...]
    """Ranges along `dim` of each process, one in each block."""
    place: int
    """Of this process in the group."""
    group: Any

    @classmethod
    def of(cls, size: torch.Size, dim: int, blocks: int, place: int, count: int, group: Any) -> Division:
        """Divide each of `blocks` of a tensor of `size` among `count` processes, as evenly as can be."""
        rows = size[dim] // blocks
        ranges = tuple(
            tuple((block * rows + first, block * rows + end) for block in range(blocks))
            for first, end in (share(rows, number, count) for number in range(count))
        )
        return cls(size, dim, ranges, place, group)

    @property
    def own(self) -> tuple[Range, ...]:
        """Ranges of this process."""
        return self.ranges[self.place]

    def divide(self, parameter: nn.Parameter) -> None:
        """Leave to `parameter` the part of this process, and mark it."""
        parameter.data = self.part(parameter.data)
        mark(parameter, self)

    def part(self, whole: Tensor) -> Tensor:
        """The part of this process, a copy."""
        return torch.cat([whole.narrow(self.dim, first, end - first) for first, end in self.own], self.dim)

    def whole(self, part: Tensor) -> Tensor:
        """The whole tensor. All processes of the group must call it, each with its part."""
        lengths = [sum(end - first for first, end in ranges) for ranges in self.ranges]
        padded = part.new_zeros((max(lengths), *part.movedim(self.dim, 0).shape[1:]))
        padded[: lengths[self.place]] = part.movedim(self.dim, 0)
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=self.group)
        whole = part.new_empty(self.size)
        rows = whole.movedim(self.dim, 0)
        for ranges, found in zip(self.ranges, parts, strict=True):
            start = 0
            for first, end in ranges:
                rows[first:end] = found[start : start + end - first]
                start += end - first
        return whole


def share(size: int, place: int, count: int) -> Range:
    """Range of the process `place` among `count` that divide `size` rows; it has at most one row less than another."""
    return size * place // count, size * (place + 1) // count


def division_of(tensor: Tensor) -> Division | None:
    """How `tensor`, the part of this process, is divided; None if it is not."""
    return getattr(tensor, "division", None)


def mark(tensor: Tensor, division: Division | None) -> Tensor:
    """`tensor`, marked as the part of this process; None: it is not divided."""
    if division is not None:
        tensor.division = division  # type: ignore[attr-defined]
    return tensor


def divided_as(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor`, marked as divided in the way of `like`, if that is divided."""
    return mark(tensor, division_of(like))


def whole_size(tensor: Tensor) -> torch.Size:
    """Size of the whole tensor of which `tensor` is a part."""
    division = division_of(tensor)
    return tensor.shape if division is None else division.size
