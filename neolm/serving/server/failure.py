"""Errors that a client is told, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from neolm.core.errors import NeoLMError


class ApiError(NeoLMError):
    """A request is not answered; `status` and words say why, and what would help."""

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
        """What is sent."""
        return {
            "error": {"message": str(self), "type": _TYPES.get(self.status, _kind(self.status))}
            | {"param": self.param, "code": self.code}
        }

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to it."""
        headers = {"Retry-After": str(max(1, round(self.retry_after)))} if self.retry_after is not None else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _kind(status: int) -> str:
    return "invalid_request_error" if status < 500 else "server_error"
