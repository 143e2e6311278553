"""Questions in a table: the columns of question, context and answers, in the forms that are in use.

Answers are a text with its start in another column, a list of texts, a list of objects with `text` and `answer_start`,
or an object with both as lists, as in the Parquet files of SQuAD on the hub; in CSV the last three are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.tables.questions import Question, QuestionList, Questions
from neolm.tables.squad import character_index, read_squad, stated_answers
from neolm.tables.table import Row, Table, open_table

FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class QuestionColumns:
    """Names of the columns; those that are None are looked for under their usual names, and may be missing."""

    question: str = "question"
    context: str = "context"
    answer: str | None = None
    """Usually `answers` or `answer`."""
    start: str | None = None
    """Index of the answer's first character; usually `answer_start` or `start`."""
    article: str | None = None
    """What the context is a part of; usually `title`."""
    impossible: str | None = None
    """Whether the context has no answer; usually `is_impossible`."""
    id: str | None = None
    """Usually `id`."""

    def of_table(self, table: Table) -> QuestionColumns:
        """The columns of `table`. Raises `InputError` if one that is named is missing."""

        def column(name: str | None, *usual: str) -> str | None:
            return next((one for one in usual if one in table.columns), None) if name is None else table.column(name)

        return QuestionColumns(
            table.column(self.question),
            table.column(self.context),
            column(self.answer, "answers", "answer"),
            column(self.start, "answer_start", "start"),
            column(self.article, "title"),
            column(self.impossible, "is_impossible"),
            column(self.id, "id"),
        )


def read_question_file(path: Path, columns: QuestionColumns | None = None) -> Questions:
    """The questions of a SQuAD file (.json), or of a table."""
    if any(suffix.lower() == ".json" for suffix in path.suffixes[-2:]):
        return read_squad(path)
    return read_questions(open_table(path), columns or QuestionColumns())


def read_questions(table: Table, columns: QuestionColumns) -> Questions:
    """The questions of a table. Those that cannot be used are left out and counted.

    A row with an empty answer is a question without an answer if the table has answers in other rows or a column that
    says which have none; else no row is labelled.

    Raises:
        InputError: a column is missing, or no question can be used.
    """
    columns = columns.of_table(table)
    found = QuestionList()
    for row in table.rows():
        place = f"{'line' if table.schema is None else 'row'} {row.line}"
        try:
            question = _question(row, columns, place)
            stated = _stated(row.values, columns)
        except InputError as error:
            found.leave_out(str(error), place)
            continue
        found.add(question, stated, place)
    questions = found.of_file(table.path)
    if columns.impossible is None and not any(question.answers for question in questions.questions):
        unlabelled = [replace(question, labelled=False) for question in questions.questions]
        return replace(questions, questions=unlabelled)
    return questions


def _question(row: Row, columns: QuestionColumns, place: str) -> Question:
    name = row.values.get(columns.id) if columns.id else None
    article = row.values.get(columns.article) if columns.article else None
    return Question(
        place if name in (None, "") else str(name),
        row.text(columns.question),
        row.text(columns.context),
        article="" if article is None else str(article),
    )


def _stated(values: Mapping[str, Any], columns: QuestionColumns) -> list[tuple[str, int | None]] | None:
    """Text and start of each answer of a row; None if it is not labelled."""
    value = values.get(columns.answer) if columns.answer else None
    start = values.get(columns.start) if columns.start else None
    stated = None if value is None else _answers(value, start)
    if not columns.impossible:
        return stated
    impossible = _flag(values.get(columns.impossible))
    answered = any(text.strip() for text, _ in stated or [])
    if impossible and answered:
        raise InputError(f"it has an answer although {columns.impossible} is true")
    if impossible is False and not answered:
        raise InputError(f"it has no answer although {columns.impossible} is false")
    return None if impossible is None and not answered else stated or []


def _answers(value: Any, start: Any) -> list[tuple[str, int | None]]:
    if isinstance(value, str):
        value = _parsed(value, str)
    if isinstance(value, str):
        return [(value, character_index(start))]
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if isinstance(texts, str):
            return stated_answers([value])
        value, start = texts, starts
    if isinstance(start, str):
        start = _parsed(start, int)
    if not isinstance(start, list):
        return stated_answers(value)
    texts = stated_answers(value)
    if len(start) != len(texts):
        raise InputError(f"it has {len(texts)} answers but {len(start)} starts")
    return [(text, character_index(one)) for (text, _), one in zip(texts, start, strict=True)]


def _parsed(text: str, kind: type) -> Any:
    """The list of such values, or the answers, that a text spells in JSON; else the text: an answer may be "[1]"."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    items = value if isinstance(value, list) else [value]
    usable = all(isinstance(item, kind) or (isinstance(item, dict) and "text" in item) for item in items)
    return value if usable else text


def _flag(value: Any) -> bool | None:
    """Whether a question has no answer; None if the cell is empty."""
    if value is None or value == "":
        return None
    found = FLAGS.get(str(value).strip().lower())
    if found is None:
        raise InputError("is_impossible is neither true nor false")
    return found
