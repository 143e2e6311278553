"""`neolm serve`: from settings to a server that listens, until it is told to stop."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from neolm.core.errors import InputError
from neolm.core.progress import gibibytes, say
from neolm.serving.server.app import create_app
from neolm.serving.server.connection import Connection
from neolm.serving.server.feedback import FeedbackStore, default_url
from neolm.serving.server.guard import LOOPBACK
from neolm.serving.server.journal import Journal
from neolm.serving.server.keys import KeyRing
from neolm.serving.server.service import Service
from neolm.serving.server.settings import ServeConfig
from neolm.serving.server.shelf import Shelf


def serve(models: Sequence[str], settings: ServeConfig) -> None:
    """Listen until SIGINT or SIGTERM; a second one ends at once.

    Raises:
        InputError: a model, a key file or a database that cannot be used, or an address that cannot be listened on.
    """
    if not loopback(settings.host) and settings.keys is None:
        raise InputError(
            f"serve: {settings.host} can be reached from other machines: give --keys FILE "
            "(`neolm keys new FILE NAME` makes one), or listen on 127.0.0.1"
        )
    keys = KeyRing(Path(settings.keys) if settings.keys else None)
    store = None if settings.feedback == "off" else FeedbackStore(settings.feedback or default_url())
    shelf = Shelf(models, settings)
    service = Service(settings, shelf, keys, store)
    listening = _listen(settings)
    _allow_files(settings.connections + 256)
    logger = logging.getLogger("uvicorn.error")
    logger.handlers, logger.propagate = [_ToJournal(service.journal)], False
    logger.setLevel(logging.WARNING)
    config = uvicorn.Config(
        create_app(service),
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds) + 3),
        lifespan="on",
        ws="none",
    )
    server = _Server(config, service)
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listening.close()
    say("serve: stopped")


def _allow_files(count: int) -> None:
    """Let this process have so many files open, connections among them, as far as the system allows."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(settings: ServeConfig) -> socket.socket:
    """A socket at the address.

    Raises:
        InputError: it is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)  # now, so that a second server is told
        except (OSError, OverflowError):
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"serve: cannot listen on {settings.host}, port {settings.port} ({reason}); --port 0 takes a free one"
        ) from None
    listening.set_inheritable(True)
    return listening


class _ToJournal(logging.Handler):
    """What the server below says goes where all else is said, a line each."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        error = record.exc_info[1] if record.exc_info else None
        words = record.getMessage().strip()
        self._journal.event("connection", message=words, **({"error": type(error).__name__} if error else {}))


class _Server(uvicorn.Server):
    """Says where it is, and tells the service when it is to stop."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.should_exit or not sockets:
            return
        host, port = sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        service = self._service
        names = ", ".join(f"{model.name} ({gibibytes(model.size)})" for model in service.shelf.models.values())
        say(f"serve: {names}; {gibibytes(service.shelf.memory)} for models")
        if service.feedback is not None:
            say(f"serve: feedback, with people's consent, goes to {service.feedback.place}")
        say(f"serve: http://{shown}:{port}/ is the page, http://{shown}:{port}/v1 the API; Ctrl-C stops")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: stop, or if told again, end at once: Python would wait for a thread that reads a model."""
        if self._service.stopping:
            os._exit(128 + sig)
        say("serve: stopping; answers under way are finished, Ctrl-C again ends them")
        self._service.stop()
        self.should_exit = True
