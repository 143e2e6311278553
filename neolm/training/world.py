"""The processes of a training: all ranks of a torch.distributed run, or the only process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.utils import _DistWrapper

from neolm.core.errors import NeoLMError
from neolm.training.rank_grid import DATA, RankGrid

T = TypeVar("T")
R = TypeVar("R")


class World:
    """Rank of this process, and what the ranks agree on in host memory; trivial without a process group.

    Each instance has its own gloo group, so that a thread may use one while another trains. With a process group,
    every process must create its instances in the same order.
    """

    def __init__(self, timeout: float | None = None, grid: RankGrid | None = None) -> None:
        """Create the groups of the ranks.

        Args:
            timeout: How long a rank waits for the others, in seconds; None: torch's default of 30 minutes.
            grid: The places of all ranks; None: each of them has examples of its own.
        """
        limit = None if timeout is None else timedelta(seconds=timeout)
        distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.number = dist.get_rank() if distributed else 0
        self.count = dist.get_world_size() if distributed else 1
        self._group = dist.new_group(backend="gloo", timeout=limit) if distributed else None
        grid = grid or RankGrid({"copies": self.count})
        self.data_number, self.data_count = grid.number(self.number, DATA), grid.size(DATA)
        """Place of this rank among those with different examples, and the number of different places."""
        self.stream = self.number // grid.sizes["tensor"]
        """Number of this rank's stream of random numbers, which ranks with the same activations share."""
        self._counting = self._group  # the ranks whose targets add up to those of the step
        counting = (*DATA, "context")
        if distributed and grid.size(counting) < self.count:
            for members in grid.groups(counting):  # every rank must create all groups
                group = dist.new_group(members, backend="gloo", timeout=limit)
                self._counting = group if self.number in members else self._counting

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.number == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over the ranks that process different examples or different tokens."""
        if self._counting is None:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._counting)
        return total.tolist()

    def most(self, value: int) -> int:
        """The largest `value` of all ranks."""
        if self._group is None:
            return value
        largest = torch.tensor(value)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._group)
        return int(largest)

    def agree(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank."""
        return bool(self.most(int(flag)))

    def gather(self, value: T) -> list[T]:
        """The `value` of every rank."""
        return self.combine(lambda: value, lambda values: [values] * len(values))

    def rows(self, size: int) -> slice:
        """The rows of a batch of `size` examples that this rank processes."""
        number, count = self.data_number, self.data_count
        return slice(size * number // count, size * (number + 1) // count)

    def on_first(self, action: Callable[[], T]) -> T:
        """Call `action` on rank 0, while the other ranks wait, and return its result on all of them."""
        return self.combine(lambda: None, lambda absent: [action()] * len(absent))

    def combine(self, own: Callable[[], T], merge: Callable[[list[T]], list[R]]) -> R:
        """Call `own` on every rank and `merge` on rank 0 with the results; return this rank's element of the merge.

        If one rank fails, all of them raise its error.
        """
        if self._group is None:
            return merge([own()])[0]
        try:
            return _DistWrapper(self._group, use_dist=True, coordinator_rank=0).reduce_scatter("combine", own, merge)
        except CheckpointException as failure:
            error, _ = next(iter(failure.failures.values()))
            raise (error if isinstance(error, NeoLMError) else failure) from None
