"""The processes that act together: all of a torch.distributed run, or the one process that there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from neolm.core.errors import NeoLMError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Failure:
    error: Exception


class World:
    """A process's place among those of its run, and what they agree on.

    They talk over a gloo group of their own, so that a thread may do so while another trains. With a process group,
    every process makes one, in the same order.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.number = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1
        self._group = dist.new_group(backend="gloo") if together else None

    @property
    def first(self) -> bool:
        """Whether this is the process that does what is done once."""
        return self.number == 0

    def combine(self, own: Callable[[], T], merge: Callable[[list[T]], Sequence[R]]) -> R:
        """What rank 0's `merge` makes of each rank's `own` for this rank. If one rank fails, all of them do."""
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
        """What `action` returns or raises, in a form that travels."""
        try:
            return action()
        except NeoLMError as error:
            return _Failure(error)
        except Exception as error:
            return _Failure(RuntimeError(f"rank {self.number}: {error!r}"))
