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

T = TypeVar("T")
R = TypeVar("R")


class World:
    """Rank of this process, and what the ranks agree on in host memory; trivial without a process group.

    Each instance has its own gloo group, so that a thread may use one while another trains. With a process group,
    every process must create its instances in the same order.
    """

    def __init__(self, timeout: float | None = None) -> None:
        """`timeout` is how long a rank waits for the others, in seconds; None: torch's default of 30 minutes."""
        limit = None if timeout is None else timedelta(seconds=timeout)
        distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.number = dist.get_rank() if distributed else 0
        self.count = dist.get_world_size() if distributed else 1
        self._group = dist.new_group(backend="gloo", timeout=limit) if distributed else None

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.number == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over the ranks."""
        if self._group is None:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
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
        return bool(self.sum([flag])[0])

    def rows(self, size: int) -> slice:
        """The rows of a batch of `size` examples that this rank processes."""
        return slice(size * self.number // self.count, size * (self.number + 1) // self.count)

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
