"""The dialect of a CSV or TSV file, guessed from its beginning: delimiter, quotes, header."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from neolm.core.chunks import Line
from neolm.core.delimited import UNCLOSED, Record, read_records

SAMPLE_BYTES = 2**20
SAMPLE_RECORDS = 1000
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_COLUMN = re.compile(  # a cell of the first row that makes it a header, unless the column has the cell again
    "id|idx|index|texts?|sentence[12]?|premise|hypothesis|question|answer|context|query|title|body|content|comment|tweet|"
    "review|message|document|labels?|class|category|target|score|rating|intent|split|prediction|probability|error",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\s*[-+]?(\d[\d,]*\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_NAME = re.compile(r"\s*[^\W\d][\w.#/-]*\s*")  # one word
_ENCLOSED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Dialect:
    """How the lines of a file become rows."""

    delimiter: str
    """Empty: one column."""
    quoted: bool
    """Whether quotes enclose cells."""
    width: int
    """Number of cells of the first row."""
    header: Sequence[str] | None
    """The cells of the first row, if it is a header."""
    note: str = ""
    """What is doubtful about the header."""

    def __str__(self) -> str:
        name = DELIMITERS.get(self.delimiter, repr(self.delimiter))
        parts = [f"{self.width} columns, {name}-separated" if self.delimiter else "1 column"]
        if self.delimiter == "\t" and not self.quoted:
            parts.append("quotes are plain characters")
        if self.header is None:
            numbers = ["1", "2", "3", "..."] if self.width > 4 else map(str, range(1, self.width + 1))
            parts.append(f"no header: column {', '.join(numbers)}")
        else:
            parts.append(f"header: {', '.join(name or repr(name) for name in self.header)}{self.note}")
        return ", ".join(parts)


def detect_dialect(
    lines: Iterable[Line],
    tabs: bool,
    header: bool | None = None,
    delimiter: str | None = None,
    enclosed: bool | None = None,
) -> Dialect | None:
    """The dialect of the file that begins with `lines`; None if they have no record.

    Args:
        lines: The lines of the file; the first SAMPLE_BYTES are looked at.
        tabs: Whether tabs are expected, as in TSV, where quotes may be plain characters.
        header: Whether the first row is a header; None: guess.
        delimiter: A character; None: guess.
        enclosed: Whether quotes enclose cells; None: guess.
    """
    sample: list[Line] = []
    size, cut = 0, False
    for line in lines:
        size += line.size + 1
        if size > SAMPLE_BYTES and sample:
            cut = True
            break
        sample.append(line)
    delimiters = [delimiter] if delimiter else ["\t"] if tabs else list(DELIMITERS)
    best, best_fit, first = Dialect("", not tabs, 1, None), 0.0, _records(sample, "", not tabs, cut)
    for character in delimiters:
        plain, quoted = (_records(sample, character, quoted, cut) for quoted in (False, True))
        are_plain = not enclosed if enclosed is not None else character == "\t" and _are_plain(plain, quoted)
        records = plain if are_plain else quoted
        cells, fit = records[0].cells if records else [], _fit(records)
        least = 0.0 if any(map(_COLUMN.fullmatch, cells)) else 0.5
        if delimiter or (len(cells) > 1 and fit > max(best_fit, least)):
            best, best_fit, first = Dialect(character, not are_plain, max(1, len(cells)), None), fit, records
    if not first:
        return None
    rows = [record.cells for record in first if not record.problem]
    looks = _is_header(rows)
    if not (looks if header is None else header):
        return best
    note = " (it looks like data)" if header and not looks else ""
    return replace(best, header=tuple(cell.strip() for cell in rows[0]), note=note)


def _records(sample: Iterable[Line], delimiter: str, quoted: bool, cut: bool) -> list[Record]:
    """The first records from the first that is sound, up to a quote that is perhaps closed behind the sample."""
    records = list(itertools.islice(read_records(sample, delimiter, quoted), SAMPLE_RECORDS))
    records = list(itertools.dropwhile(lambda record: record.problem, records))
    unclosed = [number for number, record in enumerate(records) if record.problem == UNCLOSED]
    return records[: unclosed[-1]] if cut and unclosed and len(records) < SAMPLE_RECORDS else records


def _fit(records: Sequence[Record]) -> float:
    """The share of records with as many cells as the first, up to empty ones at the end; damaged lines do not count."""
    width = len(records[0].cells) if records else 0
    counted = [record for record in records if record.problem in ("", UNCLOSED)]
    fitting = [record for record in counted if len(record.cells) == width or not any(record.cells[width:] or ["short"])]
    return len(fitting) / max(1, len(counted)) if width else 0.0


def _are_plain(plain: Sequence[Record], quoted: Sequence[Record]) -> bool:
    """Whether quotes are plain characters between tabs, by what fits better, or by cells with quotes in the middle."""
    fits = _fit(plain), _fit(quoted)
    if fits[0] != fits[1]:
        return fits[0] > fits[1]
    cells = [cell for record in plain for cell in record.cells if '"' in cell]
    enclosed = all(_ENCLOSED.fullmatch(cell) for cell in cells)
    # A writer encloses cells that have to be, or all of them.
    return not (
        enclosed and cells and (len(cells) >= len(plain) or any('""' in cell[1:-1] or "\r" in cell for cell in cells))
    )


def _is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row has the names of the columns, by comparison with the other rows."""
    names = [cell.strip() for cell in rows[0]]
    others = [[row[number].strip() for row in rows[1:] if number < len(row)] for number in range(len(names))]
    columns = [(name, [cell for cell in cells if cell]) for name, cells in zip(names, others, strict=True)]
    if not any(names) or any(_NUMBER.fullmatch(name) for name in names):
        return False
    if any(name and name in cells for name, cells in columns):
        return False
    if any(_COLUMN.fullmatch(name) for name in names):
        return True
    if not any(cells for _, cells in columns):
        return all(_NAME.fullmatch(name) for name in names)
    sentences = any(name.endswith((".", "?", "!", ":")) or len(name) > 40 for name in names)
    return any(_differs(name, cells, sentences) for name, cells in columns if cells)


def _differs(name: str, cells: Sequence[str], sentences: bool) -> bool:
    """Whether `name` is unlike the cells below: a word over numbers, over a few categories, or over texts.

    If the row has `sentences`, a word over texts tells nothing.
    """
    numbers = sum(_NUMBER.fullmatch(cell) is not None for cell in cells)
    if numbers >= 0.9 * len(cells):
        return True
    if len(cells) >= 20 and len(set(cells)) <= len(cells) // 10:
        return True
    words = sum(len(cell.split()) for cell in cells) / len(cells)
    return not sentences and _NAME.fullmatch(name) is not None and words >= 3
