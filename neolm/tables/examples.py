"""Labelled examples of a table, in memory: a text or a pair of texts, and the name of its label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.tables.table import Row, Table

MISSING = frozenset({"", "nan", "NaN", "null", "NULL", "<NA>", "#N/A"})
"""Cells without a label, as tables that were exported from databases, pandas and Excel have them."""
NO_LABEL = "(none)"
FLAGS = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True}
Line = int | str
"""Place of a row in its file; `NAME:LINE` where several tables were joined."""
_WHOLE = re.compile(r"([-+]?\d+)\.0+")


@dataclass(frozen=True)
class LeftOut:
    """Rows that are left out for one reason."""

    count: int
    first_line: Line


@dataclass(frozen=True)
class Examples:
    """Texts with labels. All sequences have the same length."""

    path: Path
    texts: Sequence[str]
    labels: Sequence[str]
    """Names; a number is its shortest spelling, so that 1, 1.0 and "1" are one label. Several labels are joined."""
    lines: Sequence[Line]
    """The line of each example in the file."""
    seconds: Sequence[str] | None = None
    """The second texts of pairs."""
    groups: Sequence[str] | None = None
    label_sets: Sequence[tuple[str, ...]] | None = None
    """The labels of each example, where an example has any number of them."""
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    """Rows without an example, by reason."""
    shortened_labels: int = 0
    """Labels such as 1.0 that were read as 1."""

    def __len__(self) -> int:
        return len(self.texts)

    def inputs(self) -> Iterator[tuple[str, ...]]:
        """The text of each example, or both texts."""
        return zip(self.texts, *([] if self.seconds is None else [self.seconds]), strict=True)

    def select(self, numbers: Iterable[int]) -> Examples:
        """The examples with these indices, in this order."""
        kept = list(numbers)

        def chosen(values: Sequence[Any]) -> list[Any]:
            return [values[number] for number in kept]

        return replace(
            self,
            texts=chosen(self.texts),
            labels=chosen(self.labels),
            lines=chosen(self.lines),
            seconds=None if self.seconds is None else chosen(self.seconds),
            groups=None if self.groups is None else chosen(self.groups),
            label_sets=None if self.label_sets is None else chosen(self.label_sets),
            left_out={},
            shortened_labels=0,
        )


def read_examples(
    table: Table, text: str, label: str | Sequence[str], second: str | None = None, group: str | None = None
) -> Examples:
    """The examples of a table. Rows that cannot be used are left out and counted.

    Args:
        table: An open table.
        text: Column of the text.
        label: Column of the label; or columns that are each 0 or 1, of which the ones are the labels of an example.
        second: Column of the second text of a pair.
        group: Column of the group that an example belongs to, such as a patient or an author.

    Raises:
        InputError: a column is missing, or no row can be used.
    """
    first, label_columns = table.column(text), [table.column(name) for name in _several(label)]
    text_columns = [first] if second is None else [first, table.column(second)]
    group = None if group is None else table.column(group)
    texts: tuple[list[str], ...] = tuple([] for _ in text_columns)
    labels: list[str] = []
    lines: list[Line] = []
    groups: list[str] = []
    left_out: dict[str, LeftOut] = {}
    sets: list[tuple[str, ...]] = []
    single = isinstance(label, str)
    shortened = 0
    for row in table.rows():
        try:
            found = [_text(row, column) for column in text_columns]
            name = label_name(row.values.get(label_columns[0])) if single else ""
            chosen = () if single else _chosen(row, label_columns)
        except InputError as error:
            leave_out(left_out, str(error), row.line)
            continue
        for column, value in zip(texts, found, strict=True):
            column.append(value)
        labels.append(name if single else " + ".join(chosen) or NO_LABEL)
        sets.append(chosen)
        lines.append(row.line)
        if group is not None:
            groups.append(_group(row, group))
        value = row.values[label_columns[0]]
        shortened += single and isinstance(value, str) and value != name
    if not labels:
        raise InputError(f"{table.path}: no row is an example; " + ("; ".join(describe(left_out)) or "it has no rows"))
    return Examples(
        table.path,
        texts[0],
        labels,
        lines,
        texts[1] if second is not None else None,
        groups if group is not None else None,
        None if single else sets,
        left_out,
        shortened,
    )


def leave_out(left_out: dict[str, LeftOut], reason: str, line: Line) -> None:
    """Count a row that is left out."""
    before = left_out.get(reason, LeftOut(0, line))
    left_out[reason] = replace(before, count=before.count + 1)


def describe(left_out: Mapping[str, LeftOut]) -> list[str]:
    """A phrase for each reason: `3 rows left out: the text is empty (first: line 12)`."""
    return [
        f"{rows.count:,} {'row' if rows.count == 1 else 'rows'} left out: {reason} (first: line {rows.first_line})"
        for reason, rows in sorted(left_out.items(), key=lambda item: -item[1].count)
    ]


def label_name(value: Any) -> str:
    """The name of a label. Raises `InputError` if there is none, or if the value is a list or an object."""
    if value is None or value != value or (isinstance(value, str) and value.strip() in MISSING):  # noqa: PLR0124 - NaN
        raise InputError("there is no label")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"the label is not a name ({type(value).__name__})")
    whole = _WHOLE.fullmatch(value)
    return whole[1] if whole else value


def _several(label: str | Sequence[str]) -> Sequence[str]:
    return [label] if isinstance(label, str) else label


def _chosen(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns with a 1. Raises `InputError` if one has something else than 0 or 1."""
    values = {column: label_name(row.values.get(column)).lower() for column in columns}
    for column, value in values.items():
        if value not in FLAGS:
            raise InputError(f"a label under {column!r} is neither 0 nor 1")
    return tuple(column for column, value in values.items() if FLAGS[value])


def _text(row: Row, column: str) -> str:
    text = row.text(column)
    if not text.strip():
        raise InputError("the text is empty")
    return text


def _group(row: Row, column: str) -> str:
    """The group of a row; a row without one is a group of its own."""
    value = row.values.get(column)
    return f"line {row.line}" if value is None or value == "" else f"group {value}"
