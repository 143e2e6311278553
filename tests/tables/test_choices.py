"""Multiple-choice questions in the forms that are in use, and rows that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.tables.choices import choice_columns, read_choices
from neolm.tables.table import open_table

OPTIONS = ["red", "green", "blue"]
NUMBERED = {f"choice{number}": text for number, text in enumerate(OPTIONS, start=1)}


def read(path: Path, rows: list[dict[str, Any]], options: tuple[str, ...] = (), second: str | None = None) -> Any:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    table = open_table(path)
    return read_choices(table, choice_columns(table, "text", options, second), "label")


@pytest.mark.parametrize(
    ("given", "label", "other", "answers"),
    [
        (NUMBERED, 2, 0, "numbers from 0"),
        (NUMBERED, 3, 1, "numbers from 1"),
        (NUMBERED, "C", "A", "letters"),
        (NUMBERED, "blue", "red", "texts"),
        ({"options": OPTIONS}, "blue", "red", "texts"),
        ({"choices": {"text": OPTIONS, "label": ["x", "y", "z"]}}, "z", "x", "letters"),
        ({"choices": "(A) red (B) green (C) blue"}, "C", "A", "letters"),
        ({"A": "red", "B": "green", "C": "blue"}, "C", "A", "letters"),
    ],
)
def test_forms(tmp_path: Path, given: dict[str, Any], label: Any, other: Any, answers: str) -> None:
    rows = [{"text": "sky", **given, "label": label}, {"text": "rose", **given, "label": other}]
    found = read(tmp_path / "rows.jsonl", rows)
    assert [(one.context, list(one.options), one.answer) for one in found.choices] == [
        ("sky", OPTIONS, 2),
        ("rose", OPTIONS, 0),
    ]
    assert found.answers == answers
    assert found.lines()[0].endswith(f"2 questions with 3 options; answers are {answers}")


def test_rows_may_have_fewer_options_and_a_text_before_them(tmp_path: Path) -> None:
    rows = [
        {"text": "sky", "ask": "colour?", "choice1": "red", "choice2": "blue", "choice3": "", "label": 1},
        {"text": "sky", "ask": "colour?", "choice1": "red", "choice2": "blue", "choice3": "gold", "label": 0},
    ]
    found = read(tmp_path / "rows.jsonl", rows, second="ask")
    assert [(len(one.options), one.before) for one in found.choices] == [(2, "colour? "), (3, "colour? ")]
    assert "2 questions with 2 to 3 options" in found.lines()[0]


def test_a_letter_in_an_option_does_not_divide_it(tmp_path: Path) -> None:
    rows = [{"text": "sky", "choices": "(A) group (D) of it (B) (A) again", "label": "B"}]
    assert list(read(tmp_path / "rows.jsonl", rows).choices[0].options) == ["group (D) of it", "(A) again"]


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "sky", "options": OPTIONS, "label": 0},
        {"text": "sky", "options": OPTIONS, "label": 3},
        {"text": "sky", "options": OPTIONS, "label": None},
        {"text": "sky", "options": ["red"], "label": 0},
        {"text": " ", "options": OPTIONS, "label": 0},
        {"text": "sky", "options": ["red", 5], "label": 0},
        {"text": "sky", "options": 5, "label": 0},
    ]
    found = read(tmp_path / "rows.jsonl", rows)
    assert len(found.choices) == 1
    assert {reason: places.first for reason, places in found.left_out.items()} == {
        "the answer is none of the options": "line 2",
        "there is no label": "line 3",
        "there are fewer than two options": "line 4",
        "the text is empty": "line 5",
        "an option is not text": "line 6",
        "the options are not a list": "line 7",
    }


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "sky", "label": 0}], (), "no column has options .*; name them: --option-column"),
        ([{"text": "sky", "label": 0}], ("colour",), "there is no column 'colour'"),
        ([{"text": "sky", "options": OPTIONS, "label": "x"}], (), "no row is a question with options and an answer"),
    ],
)
def test_tables_that_cannot_be_used(
    tmp_path: Path, rows: list[dict[str, Any]], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path / "rows.jsonl", rows, options)
