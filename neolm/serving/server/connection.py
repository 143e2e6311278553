"""Connections that do not wait for ever: uvicorn's protocol, and an end for who never finishes a request's head."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0


class Connection(H11Protocol):
    """One connection. A request's `state` gets `abort`, which ends it at once, and `connections`, all that are open."""

    _until: asyncio.TimerHandle | None = None
    _unsent = 0  # bytes of the last answer, when it was looked at last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It begins."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort, "connections": self.connections}
        self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Bytes have come, or those that waited may be looked at."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # a head was complete
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """An answer is sent. Between requests uvicorn itself waits, but only for the first byte of the next."""
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_a_head()

    def _wait_for_a_head(self) -> None:
        self._stop_waiting()
        self._unsent = self.transport.get_write_buffer_size()
        self._until = self.loop.call_later(HEAD_SECONDS, self._look)

    def _look(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:  # it is still reading the last answer
            self._wait_for_a_head()
        else:
            self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._until is not None:
            self._until.cancel()
            self._until = None
