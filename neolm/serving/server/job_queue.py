"""A queue for what takes long before a model can work on a request, such as encoding a text or rendering a template.

It may take seconds, for a large text or a template that somebody else wrote. So one small and one large request of a
model are done at a time, in threads that nothing else uses, and the clients take turns. Of one client the smallest
request comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from neolm.serving.server.errors import ApiError

SMALL_BYTES = 2**16  # larger requests have a thread of their own
T = TypeVar("T")


class _Task(NamedTuple):
    size: int  # bytes of the request; the heap's order
    number: int
    make: Callable[[], Any]
    result: asyncio.Future[Any]

    @property
    def large(self) -> bool:
        """Which of the two threads does it."""
        return self.size > SMALL_BYTES


class JobQueue:
    """Makes the jobs of one model. Used in the event loop's thread only."""

    def __init__(self, max_waiting: int) -> None:
        """`max_waiting` is the limit of waiting requests of each client."""
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[Hashable, list[_Task]] = OrderedDict()  # a heap for each client; the next one first
        self._busy = {False: False, True: False}  # the threads for small and for large requests
        self._numbers = itertools.count()

    async def make(self, client: Hashable, size: int, make: Callable[[], T]) -> T:
        """Call `make` when it is the turn of this request, and return the job. A cancelled request loses its turn.

        Raises:
            ApiError: too many requests of this client wait (429), or as `make` does.
        """
        tasks = self._waiting.setdefault(client, [])
        if len(tasks) >= self._max_waiting:
            problem = f"the server is busy: {len(tasks)} of your requests wait already"
            raise ApiError(429, problem, None, "queue_full", 5)
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        heapq.heappush(tasks, _Task(size, next(self._numbers), make, result))
        self._start_next()
        return await result

    def _start_next(self) -> None:
        for client in list(self._waiting):
            tasks = self._waiting[client]
            while tasks and (tasks[0].result.cancelled() or not self._busy[tasks[0].large]):
                task = heapq.heappop(tasks)
                if not task.result.cancelled():
                    self._waiting.move_to_end(client)
                    self._busy[task.large] = True
                    # Not a thread of a pool: Python waits for those at the end, also for one that never returns.
                    threading.Thread(target=self._run, args=(task,), name="neolm-job", daemon=True).start()
            if not tasks:
                del self._waiting[client]

    def _run(self, task: _Task) -> None:
        job, error = None, None
        try:
            job = task.make()
        except Exception as caught:  # raised again where the job is awaited
            error = caught
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            task.result.get_loop().call_soon_threadsafe(self._finish, task, job, error)

    def _finish(self, task: _Task, job: Any, error: Exception | None) -> None:
        self._busy[task.large] = False
        self._start_next()
        if task.result.cancelled():
            return
        if error is not None:
            task.result.set_exception(error)
        else:
            task.result.set_result(job)
