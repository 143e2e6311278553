"""The description of the API, as OpenAPI at `/openapi.json` and as a page to read at `/docs`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from jinja2 import Environment

from neolm.serving.server.classify_model import ClassifyModel
from neolm.serving.server.middleware import PUBLIC_PATHS
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.settings import ServeConfig

STATUSES = {
    400: "The request is invalid; the message names the field.",
    401: "The API key is missing or unknown.",
    403: "The request was sent by a web page of another origin.",
    404: "There is no such model, or nothing at this path.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    421: "The Host header does not name this server.",
    429: "Too many requests or tokens; retry after the seconds in Retry-After.",
    503: "The server cannot answer now; retry after the seconds in Retry-After.",
    504: "The request takes longer than the server allows.",
}
_LIMITS = ("max_tokens", "prompt_tokens", "choices", "inputs", "scores", "queue", "body_bytes", "request_seconds")
_BOUNDS = {
    **{"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"},
    **{"minLength": "length ≥", "maxLength": "length ≤", "minItems": "items ≥", "maxItems": "items ≤"},
    "maxProperties": "entries ≤",
}
Json = dict[str, Any]


def _examples(model: str, encoder: str, classifier: ServedModel | None) -> dict[str, Json]:
    """An example body for each path that takes one, with a model that writes, one that embeds and one that labels."""
    texts = ["What is the sea?", "The sea is water."]
    pairs = [dict(zip(("text", "second"), texts, strict=True))]
    labelled: Json = {"model": "CLASSIFIER", "input": texts}
    if isinstance(classifier, ClassifyModel):
        labelled = {"model": classifier.name, "input": pairs if classifier.pair else texts}
    question = {"type": "predicate", "instructions": "It is about something wet."}
    messages = [{"role": "user", "content": "What is the sea?"}]
    answers = [{"model": model, "text": "The sea is water.", "settings": {"temperature": 0.7}}]
    return {
        "/v1/completions": {"model": model, "prompt": "The sea", "max_tokens": 8, "temperature": 0.7, "seed": 1},
        "/v1/chat/completions": {"model": model, "messages": messages, "max_tokens": 8},
        "/v1/embeddings": {"model": encoder, "input": texts},
        "/v1/classify": labelled,
        "/v1/decisions": {"model": encoder, "input": texts[1], "questions": [question | {"name": "wet"}]},
        "/v1/systemone": {"model": encoder, "state": texts[1], "questions": {"wet": question | {"type": "noul"}}},
        "/v1/moderations": {"input": texts},
        "/v1alpha1/comments:analyze": {"comment": {"text": texts[0]}, "requestedAttributes": {"TOXICITY": {}}},
        "/api/feedback": {"consent": True, "kind": "rating", "rating": "up", "mode": "chat"}
        | {"prompt": messages, "answers": answers},
    }


def api_description(app: FastAPI, models: Iterable[ServedModel]) -> Json:
    """The OpenAPI description, after all routes are added; the examples have the first names of `models`."""
    kinds = {model.kind: model for model in reversed([*models])}
    names = {kind: model.name for kind, model in kinds.items()}
    writer, encoder = names.get("generate", "MODEL"), names.get("embed", "ENCODER")
    first = next(reversed(names.values()), "MODEL")
    description: Json = app.openapi()
    for name in ("HTTPValidationError", "ValidationError"):
        description["components"]["schemas"].pop(name, None)
    description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    examples = _examples(writer, encoder, kinds.get("classify"))
    operations = ((path, one) for path, methods in description["paths"].items() for one in methods.values())
    for path, operation in operations:
        operation["responses"].pop("422", None)
        if path not in PUBLIC_PATHS:
            operation["security"] = [{"key": []}, {}]
        if path in examples:
            operation["requestBody"]["content"]["application/json"]["example"] = examples[path]
        for parameter in operation.get("parameters", ()):
            parameter["example"] = names.get("generate", first)
    return description


def api_page(description: Json, settings: ServeConfig) -> str:
    """The description as HTML without scripts: each endpoint with an example, its fields and their meaning."""
    source = files("neolm.serving.server").joinpath("api_docs.html").read_text(encoding="utf-8")
    endpoints = [
        _endpoint(description, method, path, operation, settings.port or 8000)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    limits = [(name, _number(getattr(settings, name)), ServeConfig.model_fields[name].description) for name in _LIMITS]
    template = Environment(autoescape=True, trim_blocks=True).from_string(source)
    return template.render(endpoints=endpoints, limits=limits, statuses=STATUSES.items())


def _endpoint(description: Json, method: str, path: str, operation: Json, port: int) -> Json:
    url = f"http://127.0.0.1:{port}{path}"
    for parameter in operation.get("parameters", ()):
        url = url.replace(f"{{{parameter['name']}}}", parameter["example"])
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    example, objects = f"curl {url}", []
    if body:
        data = json.dumps(body["example"], ensure_ascii=False).replace("'", "'\\''")
        example += f" \\\n    -H 'Content-Type: application/json' \\\n    -d '{data}'"
        schemas = description["components"]["schemas"]
        objects = [(name, _fields(schemas[name])) for name in _references(body["schema"], schemas)]
    text = operation.get("description", "")
    return {"method": method.upper(), "path": path, "description": text, "example": example, "objects": objects}


def _references(schema: Any, schemas: Json) -> list[str]:
    """Names of the objects that `schema` refers to, and of those that their fields refer to, each once."""
    names: list[str] = []
    waiting = [schema]
    for part in waiting:
        found = dict.fromkeys(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(part)))
        new = [name for name in found if name not in names]
        names += new
        waiting += [schemas[name] for name in new]
    return names


def _fields(schema: Json) -> list[tuple[str, str, str]]:
    """Name, type and meaning of each field."""
    required = schema.get("required", ())
    return [
        (name, _type(field) + (", required" if name in required else ""), field.get("description", ""))
        for name, field in schema["properties"].items()
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,g}" if isinstance(value, float) else f"{value:,}"


def _type(field: Json) -> str:
    """The type of a field with its bounds, in a few words."""
    alternatives = field.get("anyOf") or field.get("oneOf")
    if alternatives:
        return " or ".join(dict.fromkeys(map(_type, alternatives)))
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "const" in field or "enum" in field:
        return ", ".join(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    if "minimum" in field and field["minimum"] == field.get("maximum"):
        return f"{field['minimum']:g}"
    bounds = ", ".join(f"{sign} {_number(field[key])}" for key, sign in _BOUNDS.items() if key in field)
    name = str(field.get("type", "any"))
    if name == "array":
        name = f"list of {_type(field.get('items', {}))}"
    return f"{name} ({bounds})" if bounds else name
