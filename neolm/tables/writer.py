"""Rows written to CSV, TSV, JSON Lines or Parquet, by the suffix of the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from neolm.core.errors import InputError
from neolm.core.files import replacement

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")


def write_table(
    target: Path,
    rows: Callable[[], Iterator[Mapping[str, Any]]],
    columns: Sequence[str] | None,
    types: Mapping[str, Any],
) -> None:
    """Write a table atomically.

    Args:
        target: A file with one of FORMATS.
        rows: Reads the rows, each time from the start.
        columns: The columns; None if the rows have to be asked. JSON Lines need none.
        types: Arrow types of columns, for Parquet; the others have the type of their values.
    """
    suffix = target.suffix.lower()
    with replacement(target) as file:
        if suffix == ".jsonl":
            for row in rows():
                file.write(json_line(row))
            return
        if columns is None:
            columns = list(dict.fromkeys(column for row in rows() for column in row))
        if suffix == ".parquet":
            from neolm.tables.parquet import write_parquet

            write_parquet(file, rows, columns, types)
        else:
            _write_delimited(file, rows(), columns, "\t" if suffix == ".tsv" else ",")


def check_format(target: Path) -> None:
    """Raise `InputError` if tables are not written to files of this name."""
    if target.suffix.lower() not in FORMATS:
        raise InputError(f"{target}: tables are written to {', '.join(FORMATS[:-1])} and {FORMATS[-1]} files")


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON."""
    return json.dumps(row, ensure_ascii=False, default=cell_text).encode("utf-8", "backslashreplace") + b"\n"


def _write_delimited(
    file: IO[bytes], rows: Iterable[Mapping[str, Any]], columns: Sequence[str], delimiter: str
) -> None:
    """RFC 4180 with line feeds: a cell is enclosed in quotes if it must be."""
    special = re.compile(f'["\r\n{delimiter}]')

    def enclosed(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"' if special.search(cell) else cell

    def line(cells: Iterable[str]) -> bytes:
        text = delimiter.join(map(enclosed, cells)) or '""'  # a blank line is no row
        return text.encode("utf-8", "backslashreplace") + b"\n"

    file.write(line(columns))
    for row in rows:
        file.write(line(cell_text(row.get(column)) for column in columns))


def cell_text(value: Any) -> str:
    """A value as the text of a cell; nothing is an empty cell, a list or an object is JSON."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (bool, list, dict)):
        return json.dumps(value, ensure_ascii=False, default=cell_text)
    return str(value)
