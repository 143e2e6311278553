"""The description of the API at /openapi.json, with the errors as they are, and the same as a page to read."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import FastAPI

from neolm.serving.server.replies import ErrorReply

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


def page(described: dict[str, Any]) -> str:
    """The description as a page that needs no script: what can be asked, with every field of it."""
    parts = []
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            what = escape(operation.get("description") or operation.get("summary") or "")
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{what}</p>")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body:
                parts.append(_fields(described, _resolved(described, body)))
    errors = "".join(f"<tr><td>{status}</td><td>{escape(words)}</td></tr>" for status, words in _WORDS.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>NeoLM: the API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="/static/favicon.svg"><link rel="stylesheet" href="/static/api.css"></head>'
        "<body><main><h1>The API of this server</h1>"
        '<p>OpenAI\'s, and a little more. For programs: <a href="/openapi.json">/openapi.json</a>. '
        'The <a href="/">page</a> to meet the models on.</p>'
        + "".join(parts)
        + f"<h2>Errors</h2><table><tbody>{errors}</tbody></table></main></body></html>"
    )


def _fields(described: dict[str, Any], schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' (needed)' if name in required else ''}</td>"
        f"<td>{escape(_kind(described, field))}</td><td>{escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    ]
    head = "<thead><tr><th>field</th><th>kind</th><th>meaning</th></tr></thead>"
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"


def _resolved(described: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema, or the one that it points to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return described["components"]["schemas"][name] if name else schema


def _kind(described: dict[str, Any], field: dict[str, Any]) -> str:
    """A field's type in a few words."""
    several = field.get("anyOf") or field.get("oneOf")
    if several:
        return " or ".join(dict.fromkeys(_kind(described, one) for one in several))
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if "const" in field or "enum" in field:
        return ", ".join(map(repr, field.get("enum", [field.get("const")])))
    if field.get("type") == "array":
        return f"list of {_kind(described, field.get('items', {}))}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "maxLength": "length ≤"}
    limits = ", ".join(f"{sign} {field[key]:,}" for key, sign in signs.items() if key in field)
    return f"{field.get('type', 'any')}{f' ({limits})' if limits else ''}"
