"""The next batch is read while the step at hand is computed, so that training never waits for a disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from neolm.data.batches import Batch


class Ahead:
    """Calls `read(step)` for the step after the one asked for, in a thread of its own, up to step `last`."""

    def __init__(self, read: Callable[[int], Batch], last: int) -> None:
        self._read, self._last = read, last
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """The batch of `step`; what reading raised is raised here."""
        prepared = self._next
        found = prepared[1] if prepared and prepared[0] == step else self._pool.submit(self._read, step)
        batch = found.result()
        self._next = (step + 1, self._pool.submit(self._read, step + 1)) if step < self._last else None
        return batch

    def close(self) -> None:
        """End the thread, once it has read what it is reading."""
        self._pool.shutdown(cancel_futures=True)
