"""An engine for models that read texts and write none: texts that wait are computed together, whoever sent them.

    with BatchEngine(embedder.embed_batch, embedder.dimensions) as engine:
        engine.submit([[2, 7, 3]], deliver=print)

A row is what the model reads at once: a text, or a window of one. A batch has about `batch_tokens` tokens. The clients
take turns row by row, so a request with thousands of rows delays others by one batch. Of one client the oldest request
comes first, and its longest rows, so that the rows of a batch have nearly equal lengths.

Shapes: N rows of a request, B rows of a batch, C numbers that the model gives for a row.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from neolm.core.errors import NeoLMError
from neolm.serving.request import EngineClosedError, QueueFullError

BATCH_TOKENS = 1024
"""Tokens of a batch, unless one row has more: few, because a new row waits for the batch before it."""
Result = Tensor | NeoLMError
Row = TypeVar("Row")


class BatchRequest(Generic[Row]):
    """Rows, and what the model gives for them as far as it is computed."""

    def __init__(
        self,
        rows: Sequence[Row],
        sizes: Sequence[int],
        width: int,
        client: Hashable,
        deliver: Callable[[Result], None],
    ) -> None:
        """`sizes` are the numbers of tokens."""
        self.rows, self.sizes, self.client, self.deliver = rows, sizes, client, deliver
        self.outputs = torch.empty(len(rows), width)  # (N, C)
        self.waiting = deque(sorted(range(len(rows)), key=lambda row: -sizes[row]))  # numbers of rows
        self.num_computed_rows = self.num_computed_tokens = 0
        self.cancelled = False

    def cancel(self) -> None:
        """Stop the request from any thread, after the batch that is computed."""
        self.cancelled = True


class BatchEngine(Generic[Row]):
    """Computes rows. Call `submit` from any thread; call `step` from one thread, or let `start` do it."""

    def __init__(
        self,
        compute: Callable[[list[Row]], Tensor],
        width: int,
        size: Callable[[Row], int] = len,  # type: ignore[assignment]
        max_waiting: int = 1024,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """Take the function of the model.

        Args:
            compute: From the rows of a batch to the numbers (B, C) of each, which do not depend on the other rows.
            width: C.
            size: Number of tokens of a row.
            max_waiting: Limit of requests that are not finished; further ones are refused.
            batch_tokens: Tokens of a batch, unless one row has more.
        """
        self.compute, self._width, self._size = compute, width, size
        self._max_waiting, self._batch_tokens = max_waiting, batch_tokens
        self._clients: OrderedDict[Hashable, deque[BatchRequest[Row]]] = OrderedDict()  # whose turn it is comes first
        self._running: set[BatchRequest[Row]] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed_because: str | None = None

    @property
    def num_waiting(self) -> int:
        """Number of requests with rows that wait."""
        with self._changed:
            return sum(map(len, self._clients.values()))

    @property
    def num_running(self) -> int:
        """Number of requests with rows in the batch that is computed."""
        return len(self._running)

    @property
    def closed(self) -> bool:
        """Whether the engine was closed or has failed; it accepts no more requests then."""
        return self._closed_because is not None

    def submit(
        self, rows: Sequence[Row], deliver: Callable[[Result], None], client: Hashable = None
    ) -> BatchRequest[Row]:
        """Add a request of at least one row.

        `deliver` gets the numbers (N, C) or an error, in the engine's thread, unless the request is cancelled.

        Raises:
            QueueFullError: too many requests are waiting.
            EngineClosedError: the engine was closed or has failed.
        """
        request = BatchRequest(rows, [*map(self._size, rows)], self._width, client, deliver)
        with self._changed:
            if self._closed_because is not None:
                raise EngineClosedError(self._closed_because)
            if sum(map(len, self._clients.values())) >= self._max_waiting:
                raise QueueFullError(f"{self._max_waiting} requests are waiting already")
            self._clients.setdefault(client, deque()).append(request)
            self._changed.notify()
        return request

    def step(self) -> bool:
        """Compute a batch; return False if there was nothing to do."""
        batch = self._next_batch()
        if not batch:
            return False
        self._running = {request for request, _ in batch}
        outputs = self.compute([request.rows[row] for request, row in batch])
        for (request, row), output in zip(batch, outputs, strict=True):
            request.outputs[row] = output
            request.num_computed_rows += 1
            request.num_computed_tokens += request.sizes[row]
        for request in self._running:
            if request.num_computed_rows == len(request.rows) and not request.cancelled:
                self._deliver(request, request.outputs)
        self._running = set()
        return True

    def _next_batch(self) -> list[tuple[BatchRequest[Row], int]]:
        """Requests and numbers of the rows to compute next. The clients take turns, one row each."""
        batch: list[tuple[BatchRequest[Row], int]] = []
        tokens = 0
        with self._changed:
            while self._clients:
                client, requests = next(iter(self._clients.items()))
                while requests and (requests[0].cancelled or not requests[0].waiting):
                    requests.popleft()
                if not requests:
                    del self._clients[client]
                    continue
                request = requests[0]
                size = request.sizes[request.waiting[0]]
                if batch and tokens + size > self._batch_tokens:
                    break
                batch.append((request, request.waiting.popleft()))
                tokens += size
                self._clients.move_to_end(client)
        return batch

    def _deliver(self, request: BatchRequest[Row], result: Result) -> None:
        try:
            request.deliver(result)
        except Exception:  # raised by the caller's own code, which no other request depends on
            request.cancel()

    def start(self) -> BatchEngine[Row]:
        """Run `step` in a thread until `close`; returns self."""
        self._thread = threading.Thread(target=self._run, name="neolm-batches", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while True:
            try:
                busy = self.step()
            except Exception as error:  # whatever it is, every request has to be finished
                self._end(NeoLMError(f"the engine failed: {error}"))
                raise
            with self._changed:
                if self.closed:
                    break
                if not busy and not self._clients:
                    self._changed.wait()
        self._end(EngineClosedError(str(self._closed_because)))

    def _end(self, error: NeoLMError) -> None:
        """Finish all requests with an error."""
        with self._changed:
            self._closed_because = self._closed_because or str(error)
            requests = self._running.union(*self._clients.values())
            self._clients.clear()
            self._running = set()
        for request in requests:
            if not request.cancelled:
                self._deliver(request, error)

    def close(self) -> None:
        """Accept no more requests; those in progress end with an `EngineClosedError`."""
        with self._changed:
            self._closed_because = self._closed_because or "the engine is closed"
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> BatchEngine[Row]:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()
