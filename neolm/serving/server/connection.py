"""uvicorn's protocol with a timeout for request headers, which uvicorn itself does not have.

It uses private parts of uvicorn (`cycle`, `app_state`), so pyproject.toml bounds uvicorn's version.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 20.0


class Connection(H11Protocol):
    """One connection. `scope["state"]` gets `abort`, which closes it at once, and `connections`, all open ones."""

    _timer: asyncio.TimerHandle | None = None
    _unsent = 0  # bytes of the last response at the last check

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort, "connections": self.connections}
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Process received bytes; stop the timeout when headers are complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_timer()

    def on_response_complete(self) -> None:
        """Start the timeout of the next request; uvicorn's keep-alive timeout ends at its first byte."""
        super().on_response_complete()
        if self.cycle is None or self.cycle.response_complete:
            self._start_timer()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._unsent = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(HEADER_SECONDS, self._on_timeout)

    def _on_timeout(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:  # the client is still reading the last response
            self._start_timer()
        else:
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
