"""Questions in the JSON of SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018), also compressed.

`answers: []` means that the context has no answer if `is_impossible` is true. Without `is_impossible` it means that the
question is not labelled, as in the test files of competitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from neolm.core.errors import InputError, shortened
from neolm.tables.json_lines import read_document
from neolm.tables.questions import Question, QuestionList, Questions

T = TypeVar("T")


def read_squad(path: Path) -> Questions:
    """The questions of a `.json` file, also compressed. Those that cannot be used are left out and counted.

    Raises:
        InputError: the file cannot be read, is not of this form, or no question can be used.
    """
    found = QuestionList()
    for where, article, context, raw in _raw_questions(path, read_document(path)):
        name = raw.get("id")
        place = where if name is None else f"question {shortened(name, 40)}"
        try:
            if not isinstance(name, str | int | None) or not isinstance(raw.get("question"), str):
                raise InputError("its id or its question is not text")
            question = Question(where if name is None else str(name), raw["question"], context, article=article)
            stated = _stated_answers(raw)
        except InputError as error:
            found.leave_out(str(error), place)
            continue
        found.add(question, stated, place)
    return found.of_file(path)


def _raw_questions(path: Path, content: Any) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    """Place, article, context and object of each question."""
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list):
        raise InputError(
            f"{path}: not in the form of SQuAD: there is no list 'data'; other questions belong in a table"
        )
    for a, article in enumerate(data):
        title = article.get("title") if isinstance(article, dict) else None
        for p, paragraph in enumerate(_listed(article, "paragraphs", path, f"data[{a}]")):
            place = f"data[{a}].paragraphs[{p}]"
            for q, question in enumerate(_listed(paragraph, "qas", path, place)):
                where = f"{place}.qas[{q}]"
                context = paragraph.get("context")
                if not isinstance(context, str) or not isinstance(question, dict):
                    raise InputError(f"{path}: {where}: not in the form of SQuAD: there is no context or no question")
                yield where, title if isinstance(title, str) and title else f"data[{a}]", context, question


def _listed(value: Any, key: str, path: Path, place: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise InputError(f"{path}: {place}: not in the form of SQuAD: there is no list '{key}'")
    return found


def _stated_answers(raw: Mapping[str, Any]) -> Sequence[tuple[str, int | None]] | None:
    """Text and start of each answer; None if the question is not labelled."""
    answers, impossible = raw.get("answers"), raw.get("is_impossible")
    if not isinstance(impossible, bool | None):
        raise InputError("its is_impossible is neither true nor false")
    stated = [] if answers is None else stated_answers(answers)
    if impossible and stated:
        raise InputError("it has answers although is_impossible is true")
    if impossible is False and not stated:
        raise InputError("it has no answer although is_impossible is false")
    return None if impossible is None and not stated else stated


def stated_answers(value: Any) -> list[tuple[str, int | None]]:
    """Text and start of each answer in a list of texts or of objects with `text` and `answer_start` (or `start`).

    Raises:
        InputError: it is something else.
    """
    if not isinstance(value, list):
        raise InputError("its answers are not a list")
    found: list[tuple[str, int | None]] = []
    for answer in value:
        fields = answer if isinstance(answer, dict) else {"text": answer}
        text = fields.get("text")
        if not isinstance(text, str):
            raise InputError("an answer is not text")
        found.append((text, character_index(fields.get("answer_start", fields.get("start")))))
    return found


def character_index(value: Any) -> int | None:
    """The index of a character, from a number or its digits; None if there is none.

    Raises:
        InputError: it is something else.
    """
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None or not number.is_integer() or abs(number) > 2**53:
        raise InputError(f"the place {shortened(value, 20)} is not a whole number of characters")
    return int(number)
