"""Request bodies as JSON (RFC 8259), read strictly and with limits on their structure.

Python's parser accepts NaN, takes the last of equal keys, and guesses the encoding; here these are errors. The limits
keep the validation of a body of the largest size short, because it holds up the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

MAX_KEYS = 1024  # of one object; `logit_bias` may have as many
MAX_OBJECTS = 8192  # in one body; 1,024 messages of a few parts each have fewer


class JsonRoute(APIRoute):
    """A route whose body is read by `parse`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI with another kind of request."""
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _JsonRequest(Request):
    async def json(self) -> Any:
        return parse(await self.body())


def parse(raw: bytes) -> Any:
    """The value of a JSON text. Raises `json.JSONDecodeError` if it is invalid, has equal keys, or exceeds a limit."""
    num_objects = 0

    def check_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal num_objects
        num_objects += 1
        if len(pairs) > MAX_KEYS or num_objects > MAX_OBJECTS:
            limits = f"{MAX_KEYS:,} keys in one object, {MAX_OBJECTS:,} objects"
            raise ValueError(f"it has too many parts (at most {limits})")
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {ascii(twice)[:80]} occurs twice")
        return found

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a JSON value")

    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=check_object, parse_constant=refuse)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        reason = "it is nested too deeply"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except ValueError as error:
        reason = "a number has too many digits" if "int_max_str_digits" in str(error) else str(error)
    raise json.JSONDecodeError(reason, "", 0)
