"""Read the next batch in a thread while the current step runs, so that training does not wait for the disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from neolm.data.batch import Batch


class Prefetcher:
    """Calls `read(step)` for the next step in a background thread, up to step `last`."""

    def __init__(self, read: Callable[[int], Batch], last: int) -> None:
        self._read, self._last = read, last
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Batch]] | None = None

    def batch(self, step: int) -> Batch:
        """Return the batch of `step`; an exception of `read` is raised here."""
        prepared = self._next
        found = prepared[1] if prepared and prepared[0] == step else self._pool.submit(self._read, step)
        batch = found.result()
        self._next = (step + 1, self._pool.submit(self._read, step + 1)) if step < self._last else None
        return batch

    def close(self) -> None:
        """Stop the thread after the read in progress."""
        self._pool.shutdown(cancel_futures=True)
