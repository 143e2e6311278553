"""The description of the API at /openapi.json, with the errors as they are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from neolm.serving.server.schema import ErrorReply

_WORDS = {
    400: "The request is wrong; the message says what and where.",
    401: "A key is needed, or it is not known.",
    403: "Asked by a page of another site.",
    404: "There is no such model, or nothing here.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "The server does not answer to that name.",
    429: "Too many requests or tokens; Retry-After says when to come again.",
    503: "The server cannot answer now; Retry-After says when to come again.",
    504: "It took longer than a request may.",
}
_OPEN = ("/health", "/ready", "/api/info")


def describe(app: FastAPI) -> dict[str, Any]:
    """The description, once all routes are there."""
    described: dict[str, Any] = app.openapi()
    components = described.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    error = ErrorReply.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= error.pop("$defs", {}) | {"ErrorReply": error}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    reply = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}}
    for path, operations in described["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            for status, words in _WORDS.items():
                operation["responses"][str(status)] = {"description": words, "content": reply}
            if path not in _OPEN:
                operation["security"] = [{"key": []}, {}]
    return described
