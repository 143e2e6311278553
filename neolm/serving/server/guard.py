"""What stands before every route: whom a request may come from, how large and how slow it may be, and what is noted.

Plain ASGI, so that streams pass through untouched. A page of another site cannot ask: its Origin is looked at, bodies
must be JSON, which browsers do not send across sites unasked, and the server answers to its own names only.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neolm.serving.server.failure import ApiError
from neolm.serving.server.journal import Journal
from neolm.serving.server.keys import Client, KeyRing
from neolm.serving.server.measures import Measures
from neolm.serving.server.settings import ServeConfig

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
OPEN = ("/", "/health", "/ready", "/openapi.json", "/docs", "/api/info", "/favicon.ico")  # need no key
_NAMES = re.compile(r"[\w-]+(, *[\w-]+)*", re.ASCII)
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_GRACE = 5.0  # seconds in which an answer whose time is over can be ended properly
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Guard:
    """Middleware around the application."""

    def __init__(
        self, app: ASGIApp, settings: ServeConfig, keys: KeyRing, measures: Measures, journal: Journal
    ) -> None:
        self._app, self._settings, self._keys = app, settings, keys
        self._measures, self._journal = measures, journal
        self._names = {name.lower() for name in (*LOOPBACK, settings.host, *settings.hosts)}
        self._any_name = settings.host in ("0.0.0.0", "::", "") and not settings.hosts
        self._cors = {origin.rstrip("/").lower() for origin in settings.cors}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or pass other events on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
                return
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        exchange = _Exchange(scope, send, self._cors, self._settings)
        state["request_id"] = exchange.id
        method = scope["method"] if scope["method"] in METHODS else "other"
        if method == "HEAD":  # as GET; the server below sends no body
            scope = {**scope, "method": "GET"}
        if "://" in scope["path"] and not scope["path"].startswith("/"):  # a target in absolute form, as for proxies
            path = f"/{scope['path'].partition('://')[2].partition('/')[2]}"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        try:
            self._know(scope, exchange)
            if method == "OPTIONS" and exchange.from_allowed:
                await _preflight(scope, receive, exchange.send)
                return
            state["client"] = self._admit(scope, exchange)
            await self._app(scope, await self._body(scope, receive), exchange.send)
        except ApiError as error:
            await self._refuse(error, scope, receive, exchange)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # a bug of ours: the client hears of it, and nobody else does
            self._journal.failure(exchange.id, error)
            if exchange.status is None:
                sorry = ApiError(500, "something went wrong here; the log says more", None, "internal_error")
                await self._refuse(sorry, scope, receive, exchange)
        finally:
            path = getattr(scope.get("route"), "path", None) or "other"
            self._measures.requests.labels(method, path, str(exchange.status or 499)).inc()
            self._measures.seconds.labels(path).observe(exchange.seconds)
            client: Client | None = state.get("client")
            self._journal.request(
                exchange.id,
                method,
                path if path != "other" else "-",
                exchange.status or 499,
                exchange.seconds,
                client.name if client else "-",
                state.get("facts", {}),
            )

    def _know(self, scope: Scope, exchange: _Exchange) -> None:
        """Whether there is room for it, and it means this server.

        Raises:
            ApiError: 421 or 503.
        """
        if len(scope["state"].get("connections", ())) > self._settings.connections and scope["path"] != "/health":
            raise ApiError(503, "too many connections are open", None, "too_many_connections", 5)
        host = HOST.fullmatch(exchange.headers.get("host", ""))
        name = host["name"].strip("[]").lower() if host else ""
        if not (self._any_name and host) and name not in self._names:
            raise ApiError(
                421, "this server does not answer to that name; its setting `hosts` adds names", None, "unknown_host"
            )

    def _admit(self, scope: Scope, exchange: _Exchange) -> Client | None:
        """Who asks, if the request may be here at all.

        Raises:
            ApiError: 401, 403 or 415.
        """
        headers = exchange.headers
        origin = headers.get("origin")
        if origin is not None and not exchange.from_allowed:
            _, _, place = origin.partition("://")
            if not HOST.fullmatch(place) or place.lower() != headers.get("host", "").lower():
                raise ApiError(403, "pages of other sites may not ask here", None, "foreign_origin")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json" and not (kind == "" and headers.get("content-length", "0") == "0"):
                raise ApiError(415, "the body must be application/json", None, "unsupported_media_type")
        path = scope["path"]
        if path in OPEN or path.startswith("/static/"):
            return None
        client = self._keys.client(headers.get("authorization"))
        if scope["method"] == "POST":
            client.enter()
        return client

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """The body as one message, whole, before anything is done with it.

        Raises:
            ApiError: 408, it is too slow; 413, it is too large.
        """
        most = self._settings.body_bytes
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit():
            raise ApiError(400, "Content-Length is not a number")
        too_large = ApiError(413, f"the body is larger than {most} bytes", None, "body_too_large")
        if int(length) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise ApiError(408, "the body did not come in time", None, "body_too_slow") from None
        whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

        async def replay() -> Message:
            nonlocal whole
            if whole is not None:
                message, whole = whole, None
                return message
            return await receive()

        return replay

    async def _refuse(self, error: ApiError, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        if exchange.status is None:
            headers = error.headers | ({"Connection": "close"} if error.status in (408, 413, 503) else {})
            await JSONResponse(error.body, error.status, headers)(scope, receive, exchange.send)


class _Exchange:
    """A request and how it is answered."""

    def __init__(self, scope: Scope, send: Send, cors: set[str], settings: ServeConfig) -> None:
        self.id = f"req-{uuid.uuid4().hex}"
        self.status: int | None = None
        self.headers = Headers(scope=scope)
        origin = self.headers.get("origin", "").lower()
        self.from_allowed = origin in cors
        self._origin, self._send, self._began = self.headers.get("origin", ""), send, time.monotonic()
        self._abort = scope["state"].get("abort")
        self._patience, self._end = settings.body_seconds, self._began + settings.request_seconds

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    async def send(self, message: Message) -> None:
        """Send, with headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self.id
            if self.from_allowed:
                headers["Access-Control-Allow-Origin"] = self._origin
                headers["Cross-Origin-Resource-Policy"] = "cross-origin"
                headers["Access-Control-Expose-Headers"] = "Retry-After, X-Request-Id"
                headers.append("Vary", "Origin")
        patience = max(0.0, min(self._patience, self._end + _GRACE - time.monotonic()))
        try:
            async with asyncio.timeout(patience):
                await self._send(message)
        except TimeoutError:  # it does not read what it asked for
            if self._abort is not None:
                self._abort()


async def _preflight(scope: Scope, receive: Receive, send: Send) -> None:
    """A browser asks whether a page of an allowed site may ask."""
    asked = Headers(scope=scope).get("access-control-request-headers", "")
    headers = {
        "Access-Control-Allow-Methods": "GET, POST",
        # OpenAI's client for browsers sends headers of its own.
        "Access-Control-Allow-Headers": asked if _NAMES.fullmatch(asked) else "Authorization, Content-Type",
        "Access-Control-Max-Age": "600",
    }
    await JSONResponse({}, 200, headers)(scope, receive, send)
