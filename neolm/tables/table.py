"""A table in a file: CSV, TSV, JSON Lines, a JSON list, Parquet or a text a line, as rows of named columns.

Rows are streamed, a few in memory at a time. A row that cannot be read does not end the others: it has a `problem`.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from neolm.core.chunks import COMPRESSIONS
from neolm.core.delimited import read_records
from neolm.core.errors import InputError
from neolm.core.files import storage_errors
from neolm.core.text_encoding import Encoding, detect_encoding, line_text, read_text_lines
from neolm.tables.dialect import Dialect, detect_dialect
from neolm.tables.json_lines import read_list, read_objects, sample_keys

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt")


class Row(NamedTuple):
    """A row of a table."""

    line: int
    """The line on which it starts, counted from 1; in Parquet and JSON lists, the number of the row."""
    values: Mapping[str, Any]
    """Cells by column: text in CSV, TSV and text files, else any value."""
    problem: str = ""
    """Why the row cannot be used; `values` holds what could be read of it."""

    def text(self, column: str) -> str:
        """The text in a column. Raises `InputError` with the reason if there is none."""
        if self.problem:
            raise InputError(self.problem)
        value = self.values.get(column)
        if value is None:
            raise InputError(f"there is no text under {column!r}")
        if not isinstance(value, str):
            raise InputError(f"the value under {column!r} is not text ({type(value).__name__})")
        return value

    def words(self, column: str) -> list[str]:
        """The list of words in a column. Raises `InputError` with the reason if there is none."""
        if self.problem:
            raise InputError(self.problem)
        value = self.values.get(column)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise InputError(f"the value under {column!r} is not a list of words")
        return value


@dataclass(frozen=True)
class Table:
    """A table in a file. `rows()` reads it from the start each time."""

    path: Path
    columns: tuple[str, ...]
    """In JSON Lines, the keys of the first objects."""
    rows: Callable[[], Iterator[Row]]
    guess: str = ""
    """What was guessed about the file, on one line, or nothing."""
    numbered: bool = False
    """Whether the columns have no names, only numbers: they are called `column_1`, `column_2` and so on."""
    complete: bool = True
    """Whether no row has other columns; unknown in JSON Lines."""
    schema: Any = field(default=None, compare=False)
    """The Arrow schema of a Parquet file."""

    def column(self, name: str) -> str:
        """The column `name`, which is a number, counted from 1, where columns have no names.

        Raises:
            InputError: there is no such column; the message names those there are.
        """
        if name in self.columns:
            return name
        if self.numbered and name.isdecimal() and 1 <= int(name) <= len(self.columns):
            return self.columns[int(name) - 1]
        if self.numbered:
            known = f"the file has no header, and its columns are numbered 1 to {len(self.columns)}"
            raise InputError(f"{self.path}: there is no column {name!r}; {known}")
        near = difflib.get_close_matches(name.lower(), [c.lower() for c in self.columns], n=1, cutoff=0.5)
        meant = next((f"; did you mean {c!r}?" for c in self.columns if near and c.lower() == near[0]), "")
        shown = ", ".join(column or "''" for column in self.columns[:30])
        raise InputError(f"{self.path}: there is no column {name!r}; the columns are {shown}{meant}")

    def place(self, line: int) -> str:
        """The place of a row for a message: `FILE, line 12`."""
        return f"{self.path}, {'line' if self.schema is None else 'row'} {line}"


def open_table(
    path: Path,
    header: bool | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    quoted: bool | None = None,
) -> Table:
    """The table in a file, by the suffix of its name.

    Args:
        path: `.csv`, `.tsv`, `.jsonl`, `.json` (a list of objects, held in memory) or `.txt`, also compressed;
            or `.parquet`.
        header: Whether the first row of a CSV or TSV has the names of the columns; None: guess.
        delimiter: The character between the cells of a CSV or TSV; None: guess.
        encoding: The encoding of a text file; None: detect.
        quoted: Whether quotes enclose cells; None: guess.

    Raises:
        InputError: the file cannot be read, is of another kind, is binary or has no row.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'there is no such file'}")
    suffix, compression = table_suffix(path)
    with storage_errors(path):
        if not path.stat().st_size:
            raise InputError(f"{path}: the file is empty")
        if suffix == ".parquet":
            from neolm.tables.parquet import open_parquet  # pyarrow takes 0.2 s to import

            columns, schema, values = open_parquet(path)
            return Table(path, columns, lambda: itertools.starmap(Row, values()), schema=schema)
        found = Encoding(encoding, f"read as {encoding}") if encoding else detect_encoding(path, compression)
        if suffix == ".jsonl":
            return _json_lines(path, compression, found)
        if suffix == ".json":
            objects = read_list(path)
            columns = sample_keys(path, iter(objects))
            return Table(path, columns, lambda: itertools.starmap(Row, enumerate(objects, start=1)), complete=False)
        if suffix == ".txt":
            guess = f"{path}: {found.note}" if found.note else ""
            return Table(path, ("text",), lambda: _text_rows(path, compression, found), guess)
        return _delimited(path, suffix == ".tsv", compression, found, header, delimiter, quoted)


def table_suffix(path: Path) -> tuple[str, str]:
    """The suffix of the format and the one of the compression. Raises `InputError` for other files."""
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    suffix = (Path(path.stem) if compression else path).suffix.lower()
    if suffix in SUFFIXES and not (compression and suffix == ".parquet"):
        return suffix, compression
    advice = "; save the sheet as CSV" if suffix in (".xlsx", ".xls", ".ods") else ""
    raise InputError(
        f"{path}: tables are {', '.join(SUFFIXES[:-1])} and {SUFFIXES[-1]} files; all but Parquet may be compressed "
        f"({', '.join(COMPRESSIONS)}){advice}"
    )


def _json_lines(path: Path, compression: str, encoding: Encoding) -> Table:
    def rows() -> Iterator[Row]:
        return itertools.starmap(Row, read_objects(read_text_lines(path, compression, encoding)))

    # JSON is UTF-8: a line that is not has a problem of its own
    encoding = Encoding() if encoding.name == "cp1252" else encoding
    return Table(path, sample_keys(path, (row.values for row in rows())), rows, complete=False)


def _text_rows(path: Path, compression: str, encoding: Encoding) -> Iterator[Row]:
    for line in read_text_lines(path, compression, encoding):
        try:
            yield Row(line.number, {"text": line_text(line).removesuffix("\r")})
        except InputError as error:
            yield Row(line.number, {}, str(error))


def _delimited(
    path: Path,
    tabs: bool,
    compression: str,
    encoding: Encoding,
    header: bool | None,
    delimiter: str | None,
    quoted: bool | None,
) -> Table:
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise InputError(f"delimiter: {delimiter!r} is not one character, or is a quote or a line end")
    dialect = detect_dialect(read_text_lines(path, compression, encoding), tabs, header, delimiter, quoted)
    if dialect is None:
        raise InputError(f"{path}: there is no row that can be read")
    given = dialect.header
    columns = tuple(f"column_{n}" for n in range(1, dialect.width + 1)) if given is None else _unique(given)
    notes = [str(dialect), encoding.note] if encoding.note else [str(dialect)]
    return Table(
        path,
        columns,
        lambda: _delimited_rows(path, compression, encoding, dialect, columns),
        f"{path}: {'; '.join(notes)}",
        numbered=given is None,
    )


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names of a header; a name that comes again has its place behind it."""
    return tuple(f"{name}_{place}" if name in names[: place - 1] else name for place, name in enumerate(names, start=1))


def _delimited_rows(
    path: Path, compression: str, encoding: Encoding, dialect: Dialect, columns: tuple[str, ...]
) -> Iterator[Row]:
    lines = read_text_lines(path, compression, encoding)
    records = read_records(lines, dialect.delimiter, dialect.quoted)
    header = dialect.header is not None
    for line, cells, problem in records:
        if header and not problem:
            header = False
            continue
        while len(cells) > len(columns) and not cells[-1]:  # a delimiter at the end of each row but the header
            cells.pop()
        found = problem
        if not found and len(cells) != len(columns):
            found = f"it has {len(cells)} {'cell' if len(cells) == 1 else 'cells'} instead of {len(columns)}"
        yield Row(line, dict(zip(columns, cells, strict=False)), found)
