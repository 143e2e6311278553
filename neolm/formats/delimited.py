"""The rows of CSV and TSV files with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from neolm.core.chunks import DamageError, Line
from neolm.core.delimited import read_records
from neolm.core.errors import InputError
from neolm.core.text_encoding import detect_encoding, read_text_lines

SEPARATORS = "\t,;|"


Row = tuple[int, dict[str, str] | DamageError]


def read_delimited(content: Path | bytes, compression: str, text_key: str) -> Iterator[Row]:
    """The line on which each row starts, and its cells by column or the damage for which it has none.

    The separator is the one with which the first line names the column `text_key`.

    Raises:
        DamageError: the file is not text, or its compressed data is damaged; after the rows before the damage.
    """
    try:
        encoding = detect_encoding(content, compression)
    except InputError as error:
        raise DamageError("unreadable", str(error).rpartition(": ")[2]) from None
    lines = read_text_lines(content, compression, encoding)
    first = next(lines, Line(1, b"", 0))
    names = [first.data.decode("utf-8", "replace").replace("\0", "")]
    separator = next((s for s in SEPARATORS if text_key in next(csv.reader(names, delimiter=s), [])), ",")
    header: list[str] = []
    for row in read_records(_undamaged(chain([first], lines)), separator, quoted=True):
        if row.problem or (header and len(row.cells) != len(header)):
            why = row.problem or f"the row has {len(row.cells)} cells, the header {len(header)}"
            yield row.line, DamageError("broken_record", why)
        elif header:
            yield row.line, dict(zip(header, row.cells, strict=True))
        else:
            header = row.cells


def _undamaged(lines: Iterable[Line]) -> Iterator[Line]:
    """The lines of a file. Raises `DamageError` where it is damaged."""
    for line in lines:
        if line.damage is not None and line.damage.reason != "too_large":
            raise line.damage
        yield line
