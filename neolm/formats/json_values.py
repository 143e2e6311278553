"""JSON of bounded size and depth: parse it, and write it as canonical text.

Python objects take up to 25 times as much memory as their JSON (`[[],[],...]`), so the number of values is limited.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from neolm.core.chunks import DamageError
from neolm.core.text_encoding import storable

MAX_VALUES = 2**23  # values in one record; about 600 MB as Python objects
MAX_NESTING = 100  # levels of arrays and objects in metadata, so that every JSON parser can read it again
_DECODER = json.JSONDecoder(parse_constant=str)  # NaN and Infinity are not JSON
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False)
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)  # possessive: no memory for each character


def parse_json(text: str) -> Any:
    """The value of `text`. Raises `DamageError` if it is not JSON (`broken_json`) or has too many values."""
    if _separators(text) > MAX_VALUES and _separators(_STRING.sub("", text)) > MAX_VALUES:
        raise too_many_values()
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise DamageError("broken_json", str(error) or type(error).__name__) from None


def _separators(text: str) -> int:
    return sum(map(text.count, ",[{")) if len(text) > MAX_VALUES else 0


def too_many_values() -> DamageError:
    """The damage of a record with more than MAX_VALUES values."""
    return DamageError("too_large", f"the record has more than {MAX_VALUES:,} JSON values")


def json_text(value: Mapping[str, Any]) -> str:
    """`value` as JSON with sorted keys; numbers that JSON does not have become text ("inf").

    Raises:
        DamageError: the value is nested too deeply.
    """
    if not value:
        return "{}"
    try:
        try:
            text = _ENCODER.encode(value)
        except ValueError:
            text = _ENCODER.encode(_finite(value))
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_NESTING and _is_nested(value, MAX_NESTING):
        raise _too_deep()
    return storable(text)


def _too_deep() -> DamageError:
    return DamageError("broken_json", f"the metadata is nested more than {MAX_NESTING} levels deep")


def _is_nested(value: Any, levels: int) -> bool:
    """Whether `value`, an object or array, has more than `levels` levels."""
    items = value.values() if isinstance(value, Mapping) else value
    inner = (item for item in items if isinstance(item, (dict, list)))
    return levels == 0 or any(_is_nested(item, levels - 1) for item in inner)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
