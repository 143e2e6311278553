"""The places of the columns of a Parquet file and the sizes of their pages, read before anything is unpacked.

The footer tells neither the size of a dictionary nor of the largest page, and both decide how much memory a row can
take: 200 rows of one 20 MB value are a file of 2 KB. The footer is read here too, because pyarrow 25 ends the process
when it is asked for a column whose description is damaged.

Footer and page headers are Thrift structs in the compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

SCHEMA_LEVELS = 256  # of columns in columns; Arrow calls itself for each level, until the stack is full
FOOTER_BYTES = 2**25  # 100,000 descriptions of columns take about half of this
_HEADER_BYTES = (2**12, 2**24)  # at first, and if the header is longer: it may have the smallest and the largest value
# Fields of FileMetaData, SchemaElement, RowGroup, ColumnChunk, ColumnMetaData, PageHeader and DataPageHeader.
_SCHEMA, _ROW_GROUPS = 2, 4
_NUM_CHILDREN = 5
_COLUMNS, _NUM_ROWS = 1, 3
_META_DATA = 3
_TOTAL_PACKED, _DATA_OFFSET, _DICTIONARY_OFFSET = 7, 9, 11
_UNPACKED, _PACKED, _DATA, _DATA_V2 = 2, 3, 5, 8
_NUM_VALUES = 1
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


@dataclass(frozen=True)
class RowGroup:
    """A row group: its number of rows, and the first and last place (exclusive) of each column in the file."""

    rows: int
    columns: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Page:
    """A page of a column: its bytes after decompression, and its number of values (0 for a dictionary)."""

    size: int
    values: int


def read_row_groups(file: BinaryIO) -> list[RowGroup]:
    """The row groups of a Parquet file. Raises `ValueError` if the footer is damaged or too large."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    length = int.from_bytes(file.read(8)[:4], "little")
    if length > min(FOOTER_BYTES, size - 8):
        raise ValueError(f"the footer has {length:,} bytes, more than the file or {FOOTER_BYTES:,}")
    file.seek(size - 8 - length)
    try:
        footer = _Thrift(file.read(length)).struct()
        _check_levels(footer[_SCHEMA])
        return [
            RowGroup(group[_NUM_ROWS], tuple(_place(column[_META_DATA]) for column in group[_COLUMNS]))
            for group in footer.get(_ROW_GROUPS, [])
        ]
    except (IndexError, RecursionError, TypeError, KeyError):
        raise ValueError("the footer is damaged") from None


def _check_levels(schema: list[dict[int, Any]]) -> None:
    """Raise `ValueError` if columns are nested too deeply. The schema is a tree in the order of depth first."""
    missing: list[int] = []  # children that are still to come, by level
    for element in schema:
        while missing and missing[-1] <= 0:
            missing.pop()
        if missing:
            missing[-1] -= 1
        missing.append(element.get(_NUM_CHILDREN) or 0)
        if len(missing) > SCHEMA_LEVELS:
            raise ValueError(f"the columns are nested more than {SCHEMA_LEVELS} levels deep")


def _place(column: dict[int, Any]) -> tuple[int, int]:
    start = min(column[_DATA_OFFSET], column.get(_DICTIONARY_OFFSET) or column[_DATA_OFFSET])
    return start, start + column[_TOTAL_PACKED]


def read_pages(file: BinaryIO, start: int, end: int) -> Iterator[Page]:
    """The pages of a column that lies at `start` to `end`. Raises `ValueError` for headers that are damaged."""
    while start < end:
        header, length = _read_header(file, start)
        packed, unpacked = header.get(_PACKED), header.get(_UNPACKED)
        if not isinstance(packed, int) or not isinstance(unpacked, int) or packed < 0 or unpacked < 0:
            raise ValueError(f"the page header at byte {start} is damaged")
        data = header.get(_DATA) or header.get(_DATA_V2)
        yield Page(unpacked, data.get(_NUM_VALUES, 0) if isinstance(data, dict) else 0)
        start += length + packed


def _read_header(file: BinaryIO, start: int) -> tuple[dict[int, Any], int]:
    for size in _HEADER_BYTES:
        file.seek(start)
        reader = _Thrift(file.read(size))
        try:
            return reader.struct(), reader.place
        except (IndexError, RecursionError):
            continue
    raise ValueError(f"the page header at byte {start} is damaged")


class _Thrift:
    """Reads integers, lists and structs of the compact protocol; other values are passed over (None).

    Raises:
        IndexError: the data ends early or is damaged.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def struct(self) -> dict[int, Any]:
        """The fields of a struct by their number."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            number = number + step if step else self._integer()
            fields[number] = None if kind in (_TRUE, _FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _STRUCT:
            return self.struct()
        if kind in (_LIST, _SET):
            head = self._byte()
            return [self._value(head & 15) for _ in range(head >> 4 if head >> 4 < 15 else self._unsigned())]
        if kind == _BINARY:
            length = self._unsigned()
            self.place += length
        elif kind in (_TRUE, _FALSE, _BYTE):  # one byte each in a list
            self.place += 1
        elif kind == _DOUBLE:
            self.place += 8
        else:  # Parquet has no maps
            raise IndexError
        if self.place > len(self.data):
            raise IndexError
        return None

    def _integer(self) -> int:
        number = self._unsigned()
        return number >> 1 ^ -(number & 1)

    def _unsigned(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
            if shift > 63:
                raise IndexError

    def _byte(self) -> int:
        byte = self.data[self.place]
        self.place += 1
        return byte
