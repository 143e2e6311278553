"""ASGI middleware, one concern each. `middleware` lists them in the order in which they see a request.

CORS is starlette's. Its `TrustedHostMiddleware` is not used: it sends 400 in plain text, not 421 in the API's format.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neolm.serving.server.connection import KEY_BONUS
from neolm.serving.server.errors import ApiError
from neolm.serving.server.service import Service

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
PUBLIC_PATHS = ("/health", "/ready", "/openapi.json", "/docs", "/api/info", "/favicon.ico")  # need no key
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
_GRACE_SECONDS = 5.0  # after a request's time limit, to send the error
Handler = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]


def middleware(service: Service) -> list[Middleware]:
    """All middleware of the server, outermost first."""
    own = ServiceHandlers(service)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=[origin.lower() for origin in service.settings.cors],
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "X-Request-Id", "X-Moderation-Flags"],
    )
    outer = (normalize_target, security_headers, own.send_timeout, own.request_log, _checked(own.same_origin))
    checks = map(_checked, (own.connection_limit, own.trusted_host, own.json_only, own.api_key))
    inner = (*checks, own.body_limit)
    before_cors, after_cors = ([Middleware(HttpMiddleware, handler) for handler in part] for part in (outer, inner))
    return [*before_cors, cors, *after_cors]


def _is_asset(scope: Scope) -> bool:
    """Whether the request is for the web page or its files."""
    path: str = scope["path"]
    return path == "/" or path.startswith("/static/")


def _checked(check: Callable[[Scope], None]) -> Handler:
    """A handler that passes a request on unless `check` raises an `ApiError`."""

    async def handle(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        check(scope)
        await app(scope, receive, send)

    return handle


class HttpMiddleware:
    """One middleware: calls `handler` for HTTP requests only, and sends an `ApiError` as a response."""

    def __init__(self, app: ASGIApp, handler: Handler) -> None:
        self._app, self._handler = app, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an HTTP request, or pass other messages on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._handler(self._app, scope, receive, send)
        except ApiError as error:
            response = error.response
            if error.status in (408, 413, 503):  # the rest of the body is not read, or connections are short
                response.headers["Connection"] = "close"
            await response(scope, receive, send)


async def normalize_target(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Treat HEAD as GET (uvicorn sends no body), and accept targets in absolute form, which proxies use."""
    scope.setdefault("state", {})["method"] = scope["method"]
    path: str = scope["path"]
    if "://" in path and not path.startswith("/"):
        path = f"/{path.partition('://')[2].partition('/')[2]}"
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    await app({**scope, "method": method, "path": path}, receive, send)


async def security_headers(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Add the headers that protect the web page to every response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    await app(scope, receive, send_with_headers)


class ServiceHandlers:
    """The handlers that depend on the server's state and settings."""

    def __init__(self, service: Service) -> None:
        self._service, self._settings = service, service.settings
        self._origins = {origin.lower() for origin in self._settings.cors}
        self._hosts = {name.lower() for name in (*LOOPBACK, self._settings.host, *self._settings.hosts)}
        self._any_host = self._settings.host in ("0.0.0.0", "::", "") and not self._settings.hosts

    async def send_timeout(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Close the connection of a client that does not read its response in time."""
        end = time.monotonic() + self._settings.request_seconds + _GRACE_SECONDS

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(max(0.0, min(self._settings.body_seconds, end - time.monotonic()))):
                    await send(message)
            except TimeoutError:
                scope["state"]["connection"].abort()

        await app(scope, receive, send_in_time)

    async def request_log(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Give each request an id, count it, log it unless it is a static file, and answer 500 to unexpected errors."""
        request_id, started, state = f"req-{uuid.uuid4().hex}", time.monotonic(), scope["state"]
        metrics, log = self._service.metrics, self._service.log
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await app(scope, receive, send_with_id)
        except Exception as error:
            log.failure(request_id, error)
            if status is None:
                problem = ApiError(500, "internal error; the server's log has the request id", None, "internal_error")
                await problem.response(scope, receive, send_with_id)
        finally:
            method = state["method"] if state["method"] in _METHODS else "other"
            path = getattr(scope.get("route"), "path", None) or "other"
            status, seconds = status or 499, time.monotonic() - started  # 499: the client disconnected
            metrics.requests.labels(method, path, str(status)).inc()
            metrics.seconds.labels(path).observe(seconds)
            if status >= 400 or not _is_asset(scope):
                fields = {"id": request_id, "method": method, "path": "-" if path == "other" else path}
                fields |= {"status": status, "seconds": round(seconds, 4)}
                client = state.get("client")
                log.event("request", **fields, client=client.name if client else "-", **state.get("facts", {}))

    def same_origin(self, scope: Scope) -> None:
        """Refuse web pages of other origins, except those of the setting `cors`."""
        headers = Headers(scope=scope)
        origin = headers.get("origin", "").lower()
        host = origin.partition("://")[2]
        own = _HOST.fullmatch(host) and host == headers.get("host", "").lower()
        if "origin" in headers and not own and origin not in self._origins:
            raise ApiError(403, "web pages of other origins are not allowed", None, "foreign_origin")

    def connection_limit(self, scope: Scope) -> None:
        """Refuse requests while too many connections have requests in progress; `/health` still answers."""
        state = scope["state"]
        if state["connection_limit"].exceeded(state["connection"].connections) and scope["path"] != "/health":
            raise ApiError(503, "too many connections are open", None, "too_many_connections", 5)

    def trusted_host(self, scope: Scope) -> None:
        """Require a Host header that names this server: the DNS name of another site must not lead to it."""
        host = _HOST.fullmatch(Headers(scope=scope).get("host", ""))
        if host is None or not (self._any_host or host["name"].strip("[]").lower() in self._hosts):
            problem = "the Host header does not name this server; the setting `hosts` adds names"
            raise ApiError(421, problem, None, "unknown_host")

    def json_only(self, scope: Scope) -> None:
        """Refuse bodies that are not JSON: browsers send other types to foreign sites without a preflight request."""
        headers = Headers(scope=scope)
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        empty = content_type == "" and headers.get("content-length", "0") == "0"
        if scope["method"] not in ("GET", "OPTIONS") and content_type != "application/json" and not empty:
            raise ApiError(415, "the body must be application/json", None, "unsupported_media_type")

    def api_key(self, scope: Scope) -> None:
        """Require an API key on paths that are not public, and count the request for its limit."""
        if scope["path"] not in PUBLIC_PATHS and not _is_asset(scope):
            client = self._service.keys.client(Headers(scope=scope).get("authorization"))
            scope["state"]["client"] = client
            if client.entry is not None:
                scope["state"]["connection"].bonus = KEY_BONUS
            if scope["method"] == "POST":
                client.requests.spend(1)

    async def body_limit(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Receive the whole body, within limits of size and time, before anything is done with it."""
        max_bytes = self._settings.body_bytes
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit():
            raise ApiError(400, "Content-Length is not a number")
        too_large = ApiError(413, f"the body is larger than {max_bytes} bytes", None, "body_too_large")
        if int(length) > max_bytes:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message.get("body", b"")
                    if len(body) > max_bytes:
                        raise too_large
                    more = message.get("more_body", False)
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", None, "body_too_slow") from None
        unread: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_body() -> Message:
            return unread.pop() if unread else await receive()

        await app(scope, receive_body, send)
