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

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import types

from neolm.corpus.chunks import DamageError
from neolm.corpus.json_values import MAX_NESTING, MAX_VALUES, too_many_values

_PER_DAY = {unit: 86_400 * 1000**power for power, unit in enumerate(("s", "ms", "us", "ns"))}


def column_values(column: pa.Array, limit: int) -> Iterable[Any]:
    """The JSON value of each cell, or a `DamageError` in place of a cell that has none; one at a time if it is long."""
    if _is_simple(column.type):
        try:
            return column.to_pylist()  # type: ignore[no-any-return]
        except UnicodeDecodeError:  # find out which cells
            pass
    return (_cell(column[row], limit) for row in range(len(column)))


def _cell(scalar: pa.Scalar, limit: int) -> Any:
    try:
        return _Cell(limit).value(scalar, MAX_NESTING)
    except DamageError as error:
        return error


def _is_simple(kind: pa.DataType) -> bool:
    return bool(is_text(kind) or types.is_integer(kind) or types.is_boolean(kind))


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


class _Cell:
    """Converts one cell. The result has at most MAX_VALUES values and `limit` characters of text."""

    def __init__(self, limit: int) -> None:
        self._values, self._characters, self._limit = MAX_VALUES, limit, limit

    def value(self, scalar: pa.Scalar, levels: int) -> Any:
        """The JSON value of a cell, at most `levels` deep."""
        kind = scalar.type
        self._count(1)
        if levels == 0:
            raise DamageError("broken_json", f"the value is nested more than {MAX_NESTING} levels deep")
        if not scalar.is_valid:
            return None
        if isinstance(scalar, (pa.ExtensionScalar, pa.DictionaryScalar)):
            return self.value(scalar.value, levels)
        if types.is_struct(kind):
            return {kind.field(index).name: self.value(scalar[index], levels - 1) for index in range(kind.num_fields)}
        if types.is_map(kind):
            keys, items = (self._list(scalar.values.field(index), levels) for index in range(2))
            return dict(zip(map(str, keys), items, strict=True))
        if isinstance(scalar, pa.ListScalar):  # of every layout
            return self._list(scalar.values, levels)
        value = _plain(scalar)
        self._count(0, len(value) if isinstance(value, str) else 0)
        return value

    def _list(self, array: pa.Array, levels: int) -> list[Any]:
        if types.is_integer(array.type) or types.is_boolean(array.type):
            self._count(len(array))
            return array.to_pylist()  # type: ignore[no-any-return]
        return [self.value(array[index], levels - 1) for index in range(len(array))]

    def _count(self, values: int, characters: int = 0) -> None:
        self._values -= values
        self._characters -= characters
        if self._values < 0:
            raise too_many_values()
        if self._characters < 0:
            raise DamageError("too_large", f"the value has more than {self._limit:,} characters")


def _plain(scalar: pa.Scalar) -> Any:
    """The value of a cell that holds no others."""
    kind = scalar.type
    if types.is_temporal(kind) and not types.is_interval(kind):
        return _time(scalar.value, kind)
    if is_binary(kind):
        data = scalar.as_py()
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.hex()
    try:
        value = scalar.as_py()
    except UnicodeDecodeError as error:
        raise DamageError("broken_utf8", f"{error.reason} at byte {error.start}") from None
    if isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


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
