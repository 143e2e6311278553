"""Errors that the API returns, in OpenAI's format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neolm.core.errors import NeoLMError

if TYPE_CHECKING:
    from starlette.responses import Response

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ApiError(NeoLMError):
    """An error response: status, message, the parameter at fault, a code, and seconds after which to retry."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that is sent."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        headers = {"Retry-After": str(max(1, round(self.retry_after)))} if self.retry_after is not None else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    @property
    def response(self) -> Response:
        """The response."""
        from starlette.responses import JSONResponse  # `neolm keys` works without the extra [serve]

        return JSONResponse(self.body, self.status, self.headers)


class StoppingError(ApiError):
    """The server was told to stop, and accepts no more requests."""

    def __init__(self) -> None:
        super().__init__(503, "the server is stopping", None, "not_ready", 5)
