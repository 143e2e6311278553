"""Multiple-choice questions in a table: a context or question, its options, and which of them is right.

Options are in several columns, of which an empty one has no option, or in one: a list, an object with `text` and
`label` (as ARC and CommonsenseQA have it on the hub), or a text "(A) one (B) another". The answer is a letter, a number
that counts from 0 or 1, or the text of the option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.tables.examples import label_name
from neolm.tables.questions import Places, counted, reasons
from neolm.tables.table import Row, Table

LISTS = ("options", "choices", "endings")
_NUMBERED = re.compile(r"(choice|option|ending)_?\d+|[A-H]")
_LETTERED = re.compile(r"\(([A-H])\)\s*")
_PLACE = re.compile(r"[A-H]|\d+")


@dataclass(frozen=True)
class Choice:
    """A question with its options."""

    context: str
    options: tuple[str, ...]
    place: str
    answer: int = -1
    """Index of the right option; -1: unknown."""
    before: str = ""
    """What is put in front of each option, with a space at its end."""


@dataclass(frozen=True)
class ChoiceColumns:
    """The columns of a table; see `choice_columns`."""

    text: str
    options: tuple[str, ...]
    second: str | None = None
    """Text in front of each option, such as the question about a context."""


@dataclass(frozen=True)
class Choices:
    """The questions of a table."""

    path: Path
    choices: Sequence[Choice]
    answers: str
    """How answers are given: `letters`, `numbers from 0`, `numbers from 1` or `texts`."""
    left_out: Mapping[str, Places] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What was read, for a person."""
        numbers = sorted({len(one.options) for one in self.choices})
        options = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
        first = f"{self.path}: {len(self.choices):,} questions with {options} options; answers are {self.answers}"
        return [first, *reasons(self.left_out, "row")]


def choice_columns(table: Table, text: str, options: Sequence[str], second: str | None = None) -> ChoiceColumns:
    """The columns of a table; without named `options`, the usual ones. Raises `InputError` if one is missing."""
    found = [table.column(name) for name in options]
    if not found:
        found = [name for name in LISTS if name in table.columns][:1]
    if not found:
        found = [name for name in table.columns if _NUMBERED.fullmatch(name)]
    if not found:
        usual = f"{', '.join(LISTS)}, choice1, choice2, ..., or A, B, ..."
        raise InputError(f"{table.path}: no column has options ({usual}); name them: --option-column")
    return ChoiceColumns(table.column(text), tuple(found), None if second is None else table.column(second))


def row_choice(row: Row, columns: ChoiceColumns, place: str = "") -> tuple[Choice, Sequence[str]]:
    """The question of a row, and the labels of its options if it names them. Raises `InputError` if it has none."""
    context = row.text(columns.text)
    before = "" if columns.second is None else f"{row.text(columns.second)} "
    if len(columns.options) > 1:
        cells = [row.values.get(name) for name in columns.options]
        texts = [cell for cell in cells if cell not in (None, "")]
        labels: Sequence[str] = []
    else:
        texts, labels = _listed(row.values.get(columns.options[0]))
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError("an option is not text")
    if len(texts) < 2:
        raise InputError("there are fewer than two options")
    if not context.strip():
        raise InputError("the text is empty")
    return Choice(context, tuple(texts), place, before=before), labels


def _listed(value: Any) -> tuple[list[Any], list[str]]:
    """Texts and labels of the options in one cell."""
    if isinstance(value, str):  # "(A) one (B) another"
        marks: list[re.Match[str]] = []
        for mark in _LETTERED.finditer(value):
            marks += [mark] if ord(mark[1]) == ord("A") + len(marks) else []
        ends = [mark.start() for mark in marks[1:]] + [len(value)]
        texts = [value[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)] if marks else []
        return texts, [mark[1] for mark in marks]
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        return value["text"], [str(label) for label in value.get("label") or []]
    if not isinstance(value, list):
        raise InputError("the options are not a list")
    return value, []


def read_choices(table: Table, columns: ChoiceColumns, label: str, answers: str | None = None) -> Choices:
    """The questions of a table with their answers. Rows that cannot be used are left out and counted.

    Args:
        table: An open table.
        columns: Its columns.
        label: Column of the answer.
        answers: How answers are given; None: by all of them. Numbers count from 0 if one of them is 0.

    Raises:
        InputError: there is no column `label`, or no row can be used.
    """
    label = table.column(label)
    found: list[tuple[Choice, Sequence[str], str]] = []
    left_out: dict[str, Places] = {}
    for row in table.rows():
        place = f"{'row' if table.schema is not None else 'line'} {row.line}"
        try:
            choice, labels = row_choice(row, columns, f"{table.path}, {place}")
            found.append((choice, labels, label_name(row.values.get(label))))
        except InputError as error:
            counted(left_out, str(error), place)
    answers = answers or _kind(name for _, labels, name in found if not labels)
    known = []
    for choice, labels, name in found:
        number = _number(name, choice.options, labels, answers)
        if number is None:
            counted(left_out, "the answer is none of the options", choice.place.rpartition(", ")[2])
        else:
            known.append(replace(choice, answer=number))
    if not known:
        why = "; ".join(reasons(left_out, "row")) or "it has no rows"
        raise InputError(f"{table.path}: no row is a question with options and an answer; {why}")
    return Choices(table.path, known, answers, left_out)


def _kind(names: Iterable[str]) -> str:
    """How answers are given, from all of them."""
    known = {*names}
    if not all(map(_PLACE.fullmatch, known)):
        return "texts"
    if any(name.isdigit() for name in known):
        return f"numbers from {0 if '0' in known else 1}"
    return "letters"


def _number(name: str, options: Sequence[str], labels: Sequence[str], answers: str) -> int | None:
    """Index of the option that an answer names; None if there is none."""
    if labels:
        return labels.index(name) if name in labels else None
    if answers == "texts":
        return options.index(name) if name in options else None
    number = int(name) - int(answers[-1]) if name.isdigit() and answers[-1].isdigit() else -1
    number = ord(name) - ord("A") if _PLACE.fullmatch(name) and not name.isdigit() else number
    return number if 0 <= number < len(options) else None
