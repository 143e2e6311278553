"""uvicorn's protocol with limits on what a client may hold: a timeout for headers, a number of connections, chunks.

uvicorn itself has none of these. If more connections are open than the limit, those are closed first whose clients are
awaited: for a request, for the rest of one, or for reading an answer. So idle connections keep nobody out.

It uses private parts of uvicorn (`cycle`, `app_state`, `flow`), so pyproject.toml bounds uvicorn's version.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 20.0
ANSWERED_BONUS, KEY_BONUS = 5.0, 10.0  # see `Connection.bonus`
GRACE_SECONDS, SPARE = 1.0, 1024  # see `ConnectionLimit`
FREE_CHUNKS, BYTES_PER_CHUNK = 1024, 64  # chunks of a body of any size, and the mean size if there are more


class ConnectionLimit:
    """Closes connections while more than `limit` are open: the longest quiet ones of those that wait for their clients.

    A client that has just connected may still send its request. So up to `SPARE` further connections stay open until
    they have been quiet for `GRACE_SECONDS`.
    """

    def __init__(self, limit: int) -> None:
        """`limit` is the number of connections."""
        self.limit = limit
        self._timer: asyncio.TimerHandle | None = None

    def check(self, connections: set[Connection], loop: asyncio.AbstractEventLoop) -> None:
        """Close some if there are too many; the event loop reads first what their clients have sent."""
        due = self._timer is not None and self._timer.when() <= loop.time()  # not to be put off by each further client
        if len(connections) > self.limit and (self._timer is None or len(connections) > self.limit + SPARE) and not due:
            self._close_later(0.0, connections, loop)

    def exceeded(self, connections: set[Connection]) -> bool:
        """Whether more than `limit` have requests in progress."""
        return len(connections) > self.limit < sum(not one.waits_for_client for one in connections)

    def _close_later(self, seconds: float, connections: set[Connection], loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._close_some, connections, loop)

    def _close_some(self, connections: set[Connection], loop: asyncio.AbstractEventLoop) -> None:
        self._timer, excess = None, len(connections) - self.limit
        if excess <= 0:
            return
        before = loop.time() - GRACE_SECONDS
        waiting = (one for one in connections if one.waits_for_client)
        count = max(excess, self.limit // 64)  # several at a time, because looking for them takes a while
        for one in heapq.nsmallest(count, waiting, key=lambda one: one.quiet_since + one.bonus):
            if one.quiet_since < before or len(connections) > self.limit + SPARE:
                one.abort()
        if len(connections) > self.limit:
            self._close_later(GRACE_SECONDS / 4, connections, loop)


class Connection(H11Protocol):
    """One connection. The lifespan's state gives `connection_limit`; `scope["state"]["connection"]` is this object."""

    bonus = 0.0  # seconds by which it counts as quiet for less than it is
    _timer: asyncio.TimerHandle | None = None
    _active_at = 0.0  # when the client last sent or read something
    _unsent = 0  # bytes of the last response at the last check

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = _Parser(h11.SERVER)
        self.app_state = {**self.app_state, "connection": self}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout, and close other connections if there are too many."""
        super().connection_made(transport)
        self._start_timer()
        limit: ConnectionLimit = self.app_state["connection_limit"]
        limit.check(self.connections, self.loop)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process received bytes; bytes that are not HTTP after the answer has begun close the connection."""
        self._active_at = self.loop.time()
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # 400 cannot be sent any more
            self.abort()

    def handle_events(self) -> None:
        """Process events of the parser; stop the timeout when headers are complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; the application, which may have begun to answer the request, does no more."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        super().send_400_response(msg)

    def resume_writing(self) -> None:
        """Go on after the client has read."""
        self._active_at = self.loop.time()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Start the timeout of the next request; uvicorn's keep-alive timeout ends at its first byte."""
        self.bonus, self._active_at = max(self.bonus, ANSWERED_BONUS), self.loop.time()
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._start_timer()

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing is to be done before the client sends a request, sends the rest of it, or reads."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body or self.flow.write_paused

    @property
    def quiet_since(self) -> float:
        """When the client last sent or read something."""
        return self._active_at

    def abort(self) -> None:
        """Close the connection at once."""
        self.connections.discard(self)  # which `connection_lost` does later
        self.transport.abort()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._active_at = self.loop.time()
        self._unsent = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(HEADER_SECONDS, self._on_timeout)

    def _on_timeout(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:  # the client is still reading the last response
            self._start_timer()
        else:
            self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Parser(h11.Connection):
    """h11's parser, which refuses bodies in many tiny chunks: each takes it as long as kilobytes of a large one."""

    _num_chunks = _num_bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._num_chunks = self._num_bytes = 0
        elif isinstance(event, h11.Data):
            self._num_chunks += 1
            self._num_bytes += len(event.data)
            if self._num_chunks > FREE_CHUNKS and self._num_bytes < self._num_chunks * BYTES_PER_CHUNK:
                raise h11.RemoteProtocolError("the body comes in too many small chunks")
        return event
