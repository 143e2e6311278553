"""The processes of a training: all ranks of a torch.distributed run, or the only process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from neolm.core.errors import NeoLMError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Failure:
    error: Exception


class World:
    """Rank of this process, and what the ranks agree on in host memory; trivial without a process group.

    Each instance has its own gloo group, so that a thread may use one while another trains. With a process group,
    every process must create its instances in the same order.
    """

    def __init__(self) -> None:
        distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.number = dist.get_rank() if distributed else 0
        self.count = dist.get_world_size() if distributed else 1
        self._group = dist.new_group(backend="gloo") if distributed else None

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

    def agree(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank."""
        return bool(self.sum([flag])[0])

    def rows(self, size: int) -> slice:
        """The rows of a batch of `size` examples that this rank processes."""
        return slice(size * self.number // self.count, size * (self.number + 1) // self.count)

    def combine(self, own: Callable[[], T], merge: Callable[[list[T]], Sequence[R]]) -> R:
        """Call `own` on every rank and `merge` on rank 0 with the results; return this rank's element of the merge.

        If one rank fails, all of them raise its error.
        """
        if self._group is None:
            return merge([own()])[0]
        mine = self._attempt(own)
        gathered: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(mine, gathered, dst=0, group=self._group)
        answers = None if gathered is None else self._answers(gathered, merge)
        received: list[Any] = [None]
        dist.scatter_object_list(received, answers, src=0, group=self._group)
        answer: R | _Failure = received[0]
        if isinstance(answer, _Failure):
            raise answer.error
        return answer

    def _answers(self, gathered: list[Any], merge: Callable[[list[T]], Sequence[R]]) -> list[R | _Failure]:
        failures = [value for value in gathered if isinstance(value, _Failure)]
        merged = failures[0] if failures else self._attempt(lambda: merge(gathered))
        return [merged] * self.count if isinstance(merged, _Failure) else list(merged)

    def _attempt(self, action: Callable[[], T]) -> T | _Failure:
        """Return the result of `action`, or its error in a form that can be sent."""
        try:
            return action()
        except NeoLMError as error:
            return _Failure(error)
        except Exception as error:
            return _Failure(RuntimeError(f"rank {self.number}: {error!r}"))
