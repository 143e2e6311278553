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
FREE_CHUNKS, BYTES_PER_CHUNK = 1024, 64  # chunks of a body of any size, and the mean size if there are more


class Connection(H11Protocol):
    """One connection. The lifespan's state gives `max_connections`; `scope["state"]["connection"]` is this object."""

    bonus = 0.0  # seconds by which it counts as quiet for less than it is
    _timer: asyncio.TimerHandle | None = None
    _active_at = 0.0  # when the client last sent or read something
    _unsent = 0  # bytes of the last response at the last check

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = _Parser(h11.SERVER)
        self.app_state = {**self.app_state, "connection": self}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout, and close another connection if there are too many."""
        super().connection_made(transport)
        self._start_timer()
        self.make_room()

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

    def make_room(self, quiet: float = 0.0) -> bool:
        """Close other connections if too many are open; return whether that was enough.

        Only those that wait for their clients, and have for `quiet` seconds, are closed: the longest quiet ones first.
        """
        limit: int = self.app_state["max_connections"]
        excess = len(self.connections) - limit
        if excess > 0:
            before = self.loop.time() - quiet
            others: set[Connection] = self.connections - {self}  # type: ignore[assignment]
            waiting = [one for one in others if one.waits_for_client and one._active_at <= before]
            count = max(excess, limit // 64)  # several at a time, because looking for them takes a while
            for one in heapq.nsmallest(count, waiting, key=lambda one: one._active_at + one.bonus):
                one.abort()
        return len(self.connections) <= limit

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
