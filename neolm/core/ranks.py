"""The processes that torchrun starts together, and a run of a single one (`neolm.distributed.ranks` has the others)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class RunRanks(Protocol):
    """The processes of a run. Rank 0 builds its stages, and tells the others which ones to build together."""

    count: int

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Raise an InputError if a fact differs between the ranks."""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send `message`, which must be JSON, from rank 0 to the others."""

    def heard(self) -> Iterator[dict[str, Any]]:
        """The messages of rank 0, until its run ends."""

    def connected(self, device: str, timeout: float = 600.0) -> AbstractContextManager[None]:
        """A process group of all ranks inside the `with` block; they wait `timeout` seconds for each other."""

    def map(self, compute: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each item and what `compute` gives for it, in order and on every rank; each rank computes a part of them.

        All ranks must be connected and give the same items, of which one for each rank is in memory at a time. If
        `compute` raises an error on one of them, all raise it.
        """


class OneRank:
    """A run of a single process."""

    count, first = 1, True

    def compare(self, facts: Mapping[str, Any]) -> None:
        """Facts of one process cannot differ."""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Nobody listens."""

    def heard(self) -> Iterator[dict[str, Any]]:
        """No messages."""
        return iter(())

    def connected(self, device: str, timeout: float = 600.0) -> AbstractContextManager[None]:
        """Nothing to connect."""
        return nullcontext()

    def map(self, compute: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """Each item and what `compute` gives for it."""
        return ((item, compute(item)) for item in items)


ONE_RANK = OneRank()


def is_rank_0() -> bool:
    """Whether this process prints results: rank 0 of those that torchrun started together, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def ranks_in_environment() -> int:
    """Number of processes that torchrun started together; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() else 1
