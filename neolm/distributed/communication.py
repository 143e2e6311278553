"""How much of a step the ranks spend in communication, and which of them is the slowest.

torch's profiler records single steps. A collective operation begins on a rank when that rank reaches it, and ends when
the slowest one has: so the slowest rank is the one with the least time in them. What runs in the background while the
rank computes counts too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.autograd.profiler import profile

from neolm.training.run import Communication
from neolm.training.world import World

NOTICEABLE = 0.1  # share of a step for which the other ranks wait, from which on the slowest one is named


class CommunicationMeter:
    """Measures steps of a training; all ranks measure the same ones."""

    def __init__(self, world: World, device: str) -> None:
        self._world, self._cuda = world, device.startswith("cuda")
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler prints when it starts and when it ends
        self.last: Communication | None = None
        """Of the last step that was measured."""

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure the step inside the `with` block."""
        began = time.perf_counter()
        with profile(use_device="cuda" if self._cuda else None, use_kineto=self._cuda) as recorded:
            yield
            if self._cuda:
                torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        name = "nccl" if self._cuda else "gloo:"
        ranges = [event.time_range for event in recorded.function_events or () if event.name.startswith(name)]
        spent = covered((each.start, each.end) for each in ranges) / 1e6
        self.last = summary(self._world.gather((spent, seconds)))


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of `intervals`, each of begin and end."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def summary(ranks: list[tuple[float, float]]) -> Communication:
    """What the seconds in communication and the seconds of the step, of each rank, say."""
    longest = max(seconds for _, seconds in ranks) or 1.0
    spent = sorted((seconds, rank) for rank, (seconds, _) in enumerate(ranks))
    (least, slowest), (second, _) = spent[0], spent[1]
    waits = (second - least) / longest
    share = min(1.0, sum(seconds for seconds, _ in spent) / len(spent) / longest)
    return Communication(share, slowest if waits >= NOTICEABLE else None, waits)
