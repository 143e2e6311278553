"""`neolm serve`: start a server with uvicorn, and run it until a signal stops it."""

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

from neolm.core.device import share_freed_memory
from neolm.core.errors import InputError
from neolm.core.progress import gibibytes, say
from neolm.serving.server.app import create_app
from neolm.serving.server.connection import SPARE, Connection
from neolm.serving.server.event_log import EventLog
from neolm.serving.server.feedback import FeedbackStore, default_url
from neolm.serving.server.keys import KeyRing
from neolm.serving.server.middleware import LOOPBACK
from neolm.serving.server.service import Service, open_models
from neolm.serving.server.settings import ServeConfig

_BACKLOG = 2048  # connections that may wait to be accepted, which happens to all of them at once


def serve(models: Sequence[str], settings: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM; a second signal ends the process at once."""
    if not loopback(settings.host) and settings.keys is None:
        raise InputError(
            f"serve: {settings.host} can be reached from other machines: give --keys FILE "
            "(`neolm keys new FILE NAME` makes one), or listen on 127.0.0.1"
        )
    share_freed_memory()  # a text of 1 MB takes 100 MB while it is encoded, and each text has a thread of its own
    keys = KeyRing(Path(settings.keys) if settings.keys else None)
    store = None if settings.feedback == "off" else FeedbackStore(settings.feedback or default_url())
    service = Service(settings, open_models(models, settings), keys, store)
    listening = _listen(settings)
    _raise_file_limit(settings.connections + SPARE + _BACKLOG + 256)
    logger = logging.getLogger("uvicorn.error")
    logger.handlers, logger.propagate = [_ToEventLog(service.log)], False
    logger.setLevel(logging.WARNING)
    config = uvicorn.Config(
        create_app(service),
        http=Connection,
        log_config=None,
        access_log=False,
        backlog=_BACKLOG,
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


def _raise_file_limit(count: int) -> None:
    """Allow `count` open files, which includes connections, as far as the system does."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(settings: ServeConfig) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)  # now, so that a second server fails at once
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


class _ToEventLog(logging.Handler):
    """Writes uvicorn's messages to the server's log."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        fields = {"error": type(error).__name__} if error else {}
        self._log.event("connection", message=record.getMessage().strip(), **fields)


class _Server(uvicorn.Server):
    """Prints the address at the start, and stops the service at a signal."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.should_exit or not sockets:
            return
        host, port = sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        service = self._service
        names = ", ".join(f"{model.name} ({gibibytes(model.size)})" for model in service.pool.models.values())
        say(f"serve: {names}; {gibibytes(service.pool.memory)} for models")
        if service.moderation is not None:
            say(f"serve: moderation by {service.moderation.name}")
        if service.feedback is not None:
            say(f"serve: feedback is stored, with consent, in {service.feedback.place}")
        say(f"serve: http://{shown}:{port}/ is the page, http://{shown}:{port}/v1 the API; Ctrl-C stops")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at the second signal exit at once, because Python would wait for a thread that loads a model."""
        if self._service.stopping:
            os._exit(128 + sig)
        self._service.stop()
        self.should_exit = True
        say("serve: stopping after the answers in progress; Ctrl-C again stops at once")
