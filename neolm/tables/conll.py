"""Files with a word and its tag on each line, and blank lines between sentences, as of CoNLL-2002 and CoNLL-2003.

Columns are separated by tabs if most lines have one, else by spaces. Lines of `-DOCSTART-` are left out, and comments:
lines that begin with `#` and are no word with a tag.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from neolm.core.chunks import COMPRESSIONS, Line
from neolm.core.errors import InputError
from neolm.core.files import storage_errors
from neolm.core.text_encoding import detect_encoding, line_text, read_text_lines
from neolm.tables.tagged_texts import TaggedList, TaggedTexts, tag_entities

SAMPLE_LINES = 1000
DOCUMENT_START = "-DOCSTART-"


def read_conll(path: Path, word_column: int = 1, tag_column: int | None = None) -> TaggedTexts:
    """The sentences of a file, also compressed. Those that cannot be used are left out and counted.

    Args:
        path: The file.
        word_column: Number of the column with the word, from 1.
        tag_column: Number of the column with the tag; None: the last one. A file of one column is not labelled.

    Raises:
        InputError: the file cannot be read, has no such column, or no sentence can be used.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'there is no such file'}")
    compression = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    with storage_errors(path):
        encoding = detect_encoding(path, compression)
        lines = read_text_lines(path, compression, encoding)
        start = [line.data.decode("utf-8", "replace") for line in itertools.islice(lines, SAMPLE_LINES)]
        words = [line for line in start if line.strip() and not line.startswith(("#", DOCUMENT_START))]
        tabs = 2 * sum("\t" in line.strip() for line in words) > len(words)
        widths = Counter(len(_cells(line, tabs)) for line in words)
        width = widths.most_common(1)[0][0] if widths else 2
        tag_column = (width if width > 1 else 0) if tag_column is None else tag_column
        for name, column in (("word_column", word_column), ("tag_column", tag_column)):
            if not (0 if name == "tag_column" else 1) <= column <= width:
                raise InputError(f"{path}: {name}: there is no column {column}, only {width}")
        found = TaggedList()
        for number, rows in _sentences(read_text_lines(path, compression, encoding), tabs, width, tag_column):
            place = f"line {number}"
            problem = next((row for row in rows if isinstance(row, str)), None)
            if problem is not None:
                found.leave_out(problem, place)
                continue
            cells = [row for row in rows if not isinstance(row, str)]
            tags = [row[tag_column - 1] for row in cells] if tag_column else None
            found.add_words([row[word_column - 1] for row in cells], tags, place)
    return found.of_file(path)


def _sentences(
    lines: Iterable[Line], tabs: bool, width: int, tag_column: int
) -> Iterator[tuple[int, list[list[str] | str]]]:
    """The line on which each sentence starts, and for each of its lines the cells, or the problem with it."""
    first, rows = 0, list[list[str] | str]()
    for line in lines:
        try:
            text = line_text(line).rstrip("\r")
        except InputError as error:
            first = first or line.number
            rows.append(str(error))
            continue
        cells = _cells(text, tabs)
        if not text.strip() or text.startswith(DOCUMENT_START):
            if rows:
                yield first, rows
            first, rows = 0, []
        elif text[0] != "#" or _is_word(cells, width, tag_column):
            first = first or line.number
            rows.append(cells if len(cells) == width else f"a line has {len(cells)} columns instead of {width}")
    if rows:
        yield first, rows


def _cells(line: str, tabs: bool) -> list[str]:
    """The columns of a line. A no-break space and the like is a part of a word."""
    line = line.strip(" \r\n")
    return [cell.strip(" ") for cell in line.split("\t")] if tabs else re.split("[ \t]+", line)


def _is_word(cells: list[str], width: int, tag_column: int) -> bool:
    """Whether a line that begins with # is a word with a tag, such as a hashtag."""
    if len(cells) != width:
        return False
    try:
        tag_entities(cells[tag_column - 1 : tag_column])
    except InputError:
        return False
    return True
