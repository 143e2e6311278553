"""An embedder that serves many requests: texts that wait are computed together, whoever sent them.

    with EmbeddingEngine(embedder) as engine:
        engine.submit([[2, 7, 3]], deliver=print)

A batch has about `batch_tokens` tokens. The clients take turns text by text, so a request with thousands of texts
delays others by one batch. Of one client the oldest request comes first, and its longest texts, so that the texts of a
batch have nearly equal lengths.

Shapes: N texts of a request, C channels.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from neolm.core.errors import NeoLMError
from neolm.embedding.embedder import Embedder
from neolm.serving.request import EngineClosedError, QueueFullError

BATCH_TOKENS = 1024
"""Tokens of a batch, unless one text has more: few, because a new text waits for the batch before it."""
Result = Tensor | NeoLMError


class EmbeddingRequest:
    """Texts as token ids, and their vectors as far as they are computed."""

    def __init__(
        self,
        inputs: Sequence[list[int]],
        normalize: bool | None,
        client: Hashable,
        dimensions: int,
        deliver: Callable[[Result], None],
    ) -> None:
        self.inputs, self.normalize, self.client, self.deliver = inputs, normalize, client, deliver
        self.vectors = torch.empty(len(inputs), dimensions)  # (N, C)
        self.waiting = deque(sorted(range(len(inputs)), key=lambda row: -len(inputs[row])))  # rows
        self.num_computed_rows = self.num_computed_tokens = 0
        self.cancelled = False

    def cancel(self) -> None:
        """Stop the request from any thread, after the batch that is computed."""
        self.cancelled = True


class EmbeddingEngine:
    """Computes vectors. Call `submit` from any thread; call `step` from one thread, or let `start` do it."""

    def __init__(self, embedder: Embedder, max_waiting: int = 1024, batch_tokens: int = BATCH_TOKENS) -> None:
        """`max_waiting` is the limit of requests that are not finished; further ones are refused."""
        self.embedder, self._max_waiting, self._batch_tokens = embedder, max_waiting, batch_tokens
        self._clients: OrderedDict[Hashable, deque[EmbeddingRequest]] = OrderedDict()  # whose turn it is comes first
        self._running: set[EmbeddingRequest] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed_because: str | None = None

    @property
    def num_waiting(self) -> int:
        """Number of requests with texts that wait."""
        with self._changed:
            return sum(map(len, self._clients.values()))

    @property
    def num_running(self) -> int:
        """Number of requests with texts in the batch that is computed."""
        return len(self._running)

    @property
    def closed(self) -> bool:
        """Whether the engine was closed or has failed; it accepts no more requests then."""
        return self._closed_because is not None

    def submit(
        self,
        inputs: Sequence[list[int]],
        deliver: Callable[[Result], None],
        normalize: bool | None = None,
        client: Hashable = None,
    ) -> EmbeddingRequest:
        """Add a request: token ids of at least one text, special tokens included, none longer than `max_length`.

        `deliver` gets the vectors (N, C) or an error, in the engine's thread, unless the request is cancelled.

        Raises:
            QueueFullError: too many requests are waiting.
            EngineClosedError: the engine was closed or has failed.
        """
        request = EmbeddingRequest(inputs, normalize, client, self.embedder.dimensions, deliver)
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
        self._running = {request for request, _ in batch}
        for normalize in {request.normalize for request in self._running}:
            part = [(request, row) for request, row in batch if request.normalize == normalize]
            vectors = self.embedder.embed_batch([request.inputs[row] for request, row in part], normalize)
            for (request, row), vector in zip(part, vectors, strict=True):
                request.vectors[row] = vector
                request.num_computed_rows += 1
                request.num_computed_tokens += len(request.inputs[row])
        for request in self._running:
            if request.num_computed_rows == len(request.inputs) and not request.cancelled:
                self._deliver(request, _checked(request.vectors))
        self._running = set()
        return bool(batch)

    def _next_batch(self) -> list[tuple[EmbeddingRequest, int]]:
        """Requests and rows of the texts to compute next. The clients take turns, one text each."""
        batch: list[tuple[EmbeddingRequest, int]] = []
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
                size = len(request.inputs[request.waiting[0]])
                if batch and tokens + size > self._batch_tokens:
                    break
                batch.append((request, request.waiting.popleft()))
                tokens += size
                self._clients.move_to_end(client)
        return batch

    def _deliver(self, request: EmbeddingRequest, result: Result) -> None:
        try:
            request.deliver(result)
        except Exception:  # raised by the caller's own code, which no other request depends on
            request.cancel()

    def start(self) -> EmbeddingEngine:
        """Run `step` in a thread until `close`; returns self."""
        self._thread = threading.Thread(target=self._run, name="neolm-embedding", daemon=True)
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

    def __enter__(self) -> EmbeddingEngine:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()


def _checked(vectors: Tensor) -> Result:
    """The vectors, or an error if one is not finite; other requests are not affected."""
    wrong = (~vectors.isfinite().all(dim=1)).nonzero()
    if len(wrong):
        return NeoLMError(f"the vector of input.{int(wrong[0])} is not finite: the numbers of the model overflow")
    return vectors
