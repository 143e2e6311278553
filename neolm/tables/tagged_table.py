"""Tagged texts in a table: lists of words and tags, or a raw text with the places of its entities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError, shortened
from neolm.tables.conll import read_conll
from neolm.tables.squad import character_index
from neolm.tables.table import Table, open_table
from neolm.tables.tagged_texts import TaggedList, TaggedTexts

WORDS, TAGS, TEXT, ENTITIES = "tokens", "tags", "text", "entities"


def read_tagged_file(path: Path) -> TaggedTexts:
    """The texts of a table (.jsonl, .parquet), or of a file with a word on each line (any other name)."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if ".jsonl" in suffixes or ".parquet" in suffixes:
        return read_tagged(open_table(path))
    if ".csv" in suffixes:
        raise InputError(
            f"{path}: words with tags are read from JSON Lines, Parquet or a file with a word and its tag on each line"
        )
    return read_conll(path)


def read_tagged(table: Table) -> TaggedTexts:
    """The texts of a table. Those that cannot be used are left out and counted.

    A row has `tokens` and `tags`, lists of the same length, or `text` and `entities`, objects with `start`, `end` and
    `label`. Without `tags` or `entities` a text is not labelled.

    Raises:
        InputError: the table has neither `tokens` nor `text`, or no text can be used.
    """
    if not {WORDS, TEXT} & {*table.columns}:
        table.column(WORDS)
    found = TaggedList()
    for row in table.rows():
        place = f"{'line' if table.schema is None else 'row'} {row.line}"
        try:
            if row.problem:
                raise InputError(row.problem)
            if row.values.get(WORDS) is not None:
                found.add_words(_words(row.values), _list(row.values, TAGS), place)
            else:
                found.add_spans(row.text(TEXT), _spans(row.values), place)
        except InputError as error:
            found.leave_out(str(error), place)
    return found.of_file(table.path)


def _words(values: Mapping[str, Any]) -> list[str]:
    words = _list(values, WORDS) or []
    if any(not isinstance(word, str) for word in words):
        raise InputError(f"a value under {WORDS!r} is not text")
    return words


def _list(values: Mapping[str, Any], column: str) -> list[Any] | None:
    value = values.get(column)
    if value is not None and not isinstance(value, list):
        raise InputError(f"the value under {column!r} is not a list ({type(value).__name__})")
    return value


def _spans(values: Mapping[str, Any]) -> list[tuple[int, int, str]] | None:
    entities = _list(values, ENTITIES)
    if entities is None:
        return None
    spans = []
    for entity in entities:
        fields = entity if isinstance(entity, dict) else {}
        start, end, label = (
            character_index(fields.get("start")),
            character_index(fields.get("end")),
            fields.get("label"),
        )
        if start is None or end is None or not isinstance(label, str) or not label.strip():
            raise InputError(f"the entity {shortened(entity, 60)} has no start, end or label")
        spans.append((start, end, label))
    return spans
