"""The records of CSV and TSV files (RFC 4180), read as Python's `csv` reads them, with the line on which each starts.

Unlike `csv`, a record that is damaged does not change the others: the quote that is never closed takes its own line
only, and cells have no size limit of their own.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from neolm.core.chunks import Line
from neolm.core.errors import InputError
from neolm.core.text_encoding import MAX_ROW_BYTES, line_text

UNCLOSED = "the quote that opens on this line is not closed"


class Record(NamedTuple):
    """The cells of a record that starts on a line, or the problem for which it has none."""

    line: int
    cells: list[str]
    problem: str = ""


def read_records(lines: Iterable[Line], delimiter: str, quoted: bool) -> Iterator[Record]:
    """The records of a file; blank lines between them are left out.

    Args:
        lines: Lines of UTF-8.
        delimiter: A character, or empty for one column.
        quoted: Whether quotes enclose cells. If not, they are characters like others.
    """
    source = _Lines(lines)
    for line in source:
        try:
            text = line_text(line)
            bare = text.removesuffix("\r")
            if not quoted or '"' not in bare:
                if bare:
                    yield Record(line.number, bare.split(delimiter) if delimiter else [bare])
                continue
            cells = _on_one_line(bare, delimiter)
            if cells is None:
                cells = _quoted_cells(text, source.following(), delimiter)
                source.forget()
            yield Record(line.number, cells)
        except InputError as error:
            yield Record(line.number, [], str(error))
            source.read_again()


class _Lines:
    """Lines, of which those after the first of a record can be read again."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines, self._again, self._taken = iter(lines), deque[Line](), list[Line]()

    def __iter__(self) -> Iterator[Line]:
        while (line := self._next()) is not None:
            yield line

    def _next(self) -> Line | None:
        return self._again.popleft() if self._again else next(self._lines, None)

    def following(self) -> Iterator[str]:
        """The texts of the next lines, until they are damaged or longer than a row may be together."""
        size = 0
        while (line := self._next()) is not None:
            self._taken.append(line)
            size += line.size
            if size > MAX_ROW_BYTES:
                return
            try:
                yield line_text(line)
            except InputError:
                return

    def forget(self) -> None:
        self._taken.clear()

    def read_again(self) -> None:
        self._again.extendleft(reversed(self._taken))
        self._taken.clear()


def _on_one_line(text: str, delimiter: str) -> list[str] | None:
    """The cells of a line by Python's `csv`, which is fast; None if they go on, are long or have quotes inside."""
    try:
        return next(csv.reader((text,), delimiter=delimiter, strict=True)) if delimiter else None
    except csv.Error:
        return None


def _quoted_cells(text: str, following: Iterator[str], delimiter: str) -> list[str]:
    """The cells of a record that begins with the line `text`. Raises `InputError` if a quote is not closed."""
    cells, place = [], 0
    while True:
        parts = []
        if text.startswith('"', place):
            place, spans = place + 1, False
            while True:
                end = text.find('"', place)
                if end < 0:
                    parts += [text[place:], "\n"]
                    text, place, spans = _next_line(following), 0, True
                    continue
                parts.append(text[place:end])
                place = end + 1
                if not text.startswith('"', place):
                    break
                parts.append('"')
                place += 1
        else:
            spans = False
        end = text.find(delimiter, place) if delimiter else -1
        rest = text[place:end] if end >= 0 else text[place:].removesuffix("\r")
        if spans and rest.strip():  # a quote opens here, which took the one before for its end
            raise InputError(UNCLOSED)
        cells.append("".join([*parts, rest]))
        if end < 0:
            return cells
        place = end + 1


def _next_line(following: Iterator[str]) -> str:
    text = next(following, None)
    if text is None:
        raise InputError(UNCLOSED)
    return text
