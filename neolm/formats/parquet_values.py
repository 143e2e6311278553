"""Turn Parquet cells into JSON values by a fixed rule that fails for no value.

| cell | JSON |
|---|---|
| text, integer, boolean, finite number | itself |
| NaN, infinity, decimal | text |
| timestamp, date, time | ISO 8601 text in the cell's own resolution; with a time zone: UTC, ending in `Z` |
| time outside the day, duration | the stored integer |
| binary | its UTF-8 text, else hexadecimal text |
| list | array |
| struct, map | object; the last of equal keys is kept |
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from neolm.core.chunks import DamageError
from neolm.formats.json_values import MAX_VALUES, too_many_values

_PER_DAY = {unit: 86_400 * 1000**power for power, unit in enumerate(("s", "ms", "us", "ns"))}


def column_values(column: pa.Array, limit: int) -> Iterator[Any]:
    """The JSON value of each cell, or a `DamageError` in place of a cell that has none.

    A cell has at most MAX_VALUES values and `limit` characters.
    """
    try:
        found = _values(column)
    except (DamageError, UnicodeDecodeError) as error:
        if len(column) > 1:  # find out which cells
            for row in range(len(column)):
                yield from column_values(column.slice(row, 1), limit)
        elif isinstance(error, UnicodeDecodeError):
            yield DamageError("broken_utf8", f"{error.reason} at byte {error.start}")
        else:
            yield error
        return
    for value in found:
        fits = not isinstance(value, (dict, list)) or _characters(value, limit) <= limit
        yield value if fits else DamageError("too_large", f"the metadata has more than {limit:,} characters")


def is_text(kind: pa.DataType) -> bool:
    """Whether cells of this type are text."""
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether cells of this type are bytes."""
    plain = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(plain or types.is_fixed_size_binary(kind))


def stored_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values in a column with a dictionary or of an extension type."""
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    return stored_type(kind.value_type) if types.is_dictionary(kind) else kind


def as_text(column: pa.Array) -> pa.Array:
    """A column of text or bytes as text. Nothing is checked: cells that are not UTF-8 fail when they are read."""
    if isinstance(column, pa.ExtensionArray):
        return as_text(column.storage)
    if isinstance(column, pa.DictionaryArray):
        return as_text(column.dictionary_decode())
    if types.is_fixed_size_binary(column.type):
        column = column.cast(pa.binary())
    return column.view(_TEXT_OF[column.type]) if column.type in _TEXT_OF else column


_TEXT_OF = {
    pa.binary(): pa.string(),
    pa.large_binary(): pa.large_string(),
    pa.binary_view(): pa.string_view(),
}


def _values(array: pa.Array) -> list[Any]:
    """The JSON values of the cells. Equal texts of a dictionary are one object.

    Raises:
        DamageError: there are more than MAX_VALUES values.
        UnicodeDecodeError: a text is not UTF-8.
    """
    kind = array.type
    if len(array) > MAX_VALUES:
        raise too_many_values()
    if isinstance(array, pa.ExtensionArray):
        return _values(array.storage)
    if isinstance(array, pa.DictionaryArray):
        words = _values(array.dictionary)
        return [None if index is None else words[index] for index in array.indices.to_pylist()]
    if types.is_struct(kind):
        columns = [_values(column) for column in array.flatten()]
        rows = zip(*columns, strict=True) if columns else ((),) * len(array)
        names = [field.name for field in kind]
        return _with_nulls(array, (dict(zip(names, cells, strict=True)) for cells in rows))
    if types.is_map(kind):
        return _with_nulls(
            array, map(_object, _lists(array, pa.StructArray.from_arrays([array.keys, array.items], ["k", "v"])))
        )
    if types.is_list(kind) or types.is_large_list(kind):
        return _with_nulls(array, _lists(array, array.values))
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        items, starts = _values(array.values), array.offsets.to_pylist()
        spans = zip(starts, array.sizes.to_pylist(), strict=True)
        return _with_nulls(array, (items[start : start + size] for start, size in spans))
    if types.is_fixed_size_list(kind):
        return _values(array.cast(pa.large_list(kind.value_type)))
    return _leaves(array)


def _lists(array: pa.Array, items: pa.Array) -> Iterator[list[Any]]:
    """The items of each list of `array`."""
    ends = array.offsets.to_pylist()
    first = ends[0]
    values = _values(items.slice(first, ends[-1] - first))
    return (values[start - first : end - first] for start, end in itertools.pairwise(ends))


def _object(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """A map as an object; JSON has no other keys than texts."""
    return {str(pair["k"]): pair["v"] for pair in pairs}


def _with_nulls(array: pa.Array, values: Iterator[Any]) -> list[Any]:
    if not array.null_count:
        return list(values)
    return [value if valid else None for value, valid in zip(values, array.is_valid().to_pylist(), strict=True)]


def _leaves(array: pa.Array) -> list[Any]:
    """The values of cells that hold no others."""
    kind = array.type
    if types.is_temporal(kind) and not types.is_interval(kind):
        numbers = array.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
        return [None if number is None else _time(number, kind) for number in numbers]
    values: list[Any] = array.to_pylist()
    if is_text(kind) or types.is_integer(kind) or types.is_boolean(kind):
        return values
    return [value if value is None else _plain(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.hex()
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def _time(number: int, kind: pa.DataType) -> int | str:
    """ISO 8601 text of a stored integer. NumPy writes every value, where `datetime` ends at the year 9999."""
    if types.is_date(kind):
        moment = np.datetime64(number, "D") if types.is_date32(kind) else np.datetime64(number, "ms")
        return _iso(moment.astype("datetime64[D]"), number)
    if types.is_timestamp(kind):
        return _iso(np.datetime64(number, kind.unit), number, "" if kind.tz is None else "Z")
    if types.is_time(kind) and 0 <= number < _PER_DAY[kind.unit]:
        return str(np.datetime64(number, kind.unit)).partition("T")[2]
    return number


def _iso(moment: Any, number: int, zone: str = "") -> int | str:
    return number if np.isnat(moment) else f"{moment}{zone}"


def _characters(value: Any, limit: int) -> int:
    """The characters of all texts in `value`; some number above `limit` if there are more than that."""
    if isinstance(value, str):
        return len(value)
    found = 0
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            found += _characters(item, limit)
            if found > limit:
                break
    return found
