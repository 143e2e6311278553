"""Questions of SQuAD files and tables: every form is read, and what is wrong is named, with its first place."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.tables.question_table import QuestionColumns, read_question_file, read_questions
from neolm.tables.questions import SHOWN, Answer, Places, Question, QuestionList, Questions, reasons, split_by_article
from neolm.tables.table import open_table

CONTEXT = "The boat went down to the town. A café 🍞 was by the water, and the town slept."


def squad(path: Path, *questions: dict[str, Any], context: str = CONTEXT, title: str = "Boats") -> Path:
    for number, question in enumerate(questions):
        question.setdefault("id", f"q{number}")
        question.setdefault("question", "Where did it go?")
    content = {"version": "v2.0", "data": [{"title": title, "paragraphs": [{"context": context, "qas": questions}]}]}
    data = json.dumps(content).encode()
    packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)(data)
    path.write_bytes(packed)
    return path


def answer(text: str, start: int) -> dict[str, Any]:
    return {"text": text, "answer_start": start}


@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz", "dev.json.zst"])
def test_a_squad_file_is_read(tmp_path: Path, name: str) -> None:
    bread = CONTEXT.index("🍞")
    path = squad(
        tmp_path / name,
        {"answers": [answer("town", 26), answer("the town", 22)]},
        {"answers": [answer("🍞", bread)], "is_impossible": False},
        {"answers": [], "is_impossible": True, "plausible_answers": [answer("town", 26)]},
        {"answers": []},
        {"id": 7},
    )
    found = read_question_file(path)
    assert [(q.id, q.texts, q.labelled) for q in found.questions] == [
        ("q0", ["town", "the town"], True),
        ("q1", ["🍞"], True),
        ("q2", [], True),
        ("q3", [], False),  # no label, although it looks like a question without an answer
        ("7", [], False),
    ]
    assert {q.article for q in found.questions} == {"Boats"}
    assert found.lines() == [
        f"{path}: 5 questions about 1 context and 1 article: 2 have an answer, 1 have none, "
        "2 are not labelled, so they are not scored"
    ]


def test_answers_at_another_place_are_found_or_left_out(tmp_path: Path) -> None:
    path = squad(
        tmp_path / "dev.json",
        {"answers": [answer("town", 30)]},  # the first town is at 26, the second at 69
        {"answers": [answer("town", 50)]},
        {"answers": [answer(" the town ", 21)]},
        {"answers": [answer("A café", 32), answer("a boat", 0)]},
        {"answers": [answer("a boat", 0)]},
        {"answers": [answer("town", -4)]},
        {"answers": [answer("town", 10**9)]},
    )
    found = read_question_file(path)
    second = CONTEXT.rindex("town")
    assert [[(a.text, a.start) for a in q.answers] for q in found.questions] == [
        [("town", 26)],
        [("town", second if abs(second - 50) < abs(26 - 50) else 26)],
        [("the town", 22)],
        [("A café", 32)],
        [("town", 26)],
        [("town", second)],
    ]
    assert found.lines()[1:] == [
        "1 question left out: its answer is not in the context (first: question 'q4')",
        "1 answer left out: not in the context (first: question 'q3')",
        "4 answers not at the stated place, but found at another (first: question 'q0')",
    ]


def test_unusable_questions_are_counted_by_reason(tmp_path: Path) -> None:
    path = squad(
        tmp_path / "dev.json",
        {"answers": [answer("town", 26)]},
        {"id": "q0", "answers": [answer("boat", 4)]},
        {"question": " \n", "answers": []},
        {"question": 3, "answers": []},
        {"answers": [answer("town", 26)], "is_impossible": True},
        {"answers": [], "is_impossible": False},
        {"answers": [answer("town", 26)], "is_impossible": 1},
        {"answers": "town"},
        {"answers": [{"answer_start": 3}]},
        {"answers": [{"text": "town", "answer_start": 2.5}]},
    )
    found = read_question_file(path)
    assert [q.id for q in found.questions] == ["q0"]
    assert {reason: (places.count, places.first) for reason, places in found.left_out.items()} == {
        "its id is that of an earlier question": (1, "question 'q0'"),
        "the question is empty": (1, "question 'q2'"),
        "its id or its question is not text": (1, "question 'q3'"),
        "it has answers although is_impossible is true": (1, "question 'q4'"),
        "it has no answer although is_impossible is false": (1, "question 'q5'"),
        "its is_impossible is neither true nor false": (1, "question 'q6'"),
        "its answers are not a list": (1, "question 'q7'"),
        "an answer is not text": (1, "question 'q8'"),
        "the place 2.5 is not a whole number of characters": (1, "question 'q9'"),
    }


def test_only_the_most_frequent_reasons_are_named() -> None:
    left_out = {f"reason {n}": Places(n, "line 1") for n in range(1, SHOWN + 4)}
    lines = reasons(left_out, "text")
    assert lines[0] == f"{SHOWN + 3} texts left out: reason {SHOWN + 3} (first: line 1)"
    assert lines[SHOWN:] == ["6 texts left out for 3 other reasons"]
    assert reasons({"a": Places(1, "line 1")}, "text") == ["1 text left out: a (first: line 1)"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "not in the form of SQuAD: there is no list 'data'"),
        ('{"data": [{"title": "x"}]}', r"data\[0\]: not in the form of SQuAD: there is no list 'paragraphs'"),
        ('{"data": [{"paragraphs": [{"context": "x"}]}]}', r"data\[0\].paragraphs\[0\]: .* there is no list 'qas'"),
        ('{"data": [{"paragraphs": [{"qas": [{}]}]}]}', r"qas\[0\]: .* there is no context or no question"),
        ('{"data": [', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"data": []}', "there is no question that can be used; it has none"),
        ('{"data": [{"paragraphs": [{"context": " ", "qas": [{"id": "a", "question": "?"}]}]}]}', "context is empty"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dev.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_question_file(tmp_path / "dev.json")
    assert str(caught.value).startswith(f"{tmp_path / 'dev.json'}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_and_a_damaged_file_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_question_file(tmp_path / "dev.json")
    (tmp_path / "dev.json.zst").write_bytes(b"\x28\xb5\x2f\xfdbroken")
    with pytest.raises(InputError, match="cannot be read"):
        read_question_file(tmp_path / "dev.json.zst")


# ---- tables ----

EXPECTED = [["town"], ["town", "the town"], []]
BOTH = [answer("town", 26), answer("the town", 22)]


def csv_table(path: Path, header: list[str], *rows: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["question", "context", *header], *(["Where?", CONTEXT, *row] for row in rows)])
    return path


def test_answers_in_csv(tmp_path: Path) -> None:
    paths = [
        csv_table(
            tmp_path / "a.csv",
            ["answer", "answer_start"],
            ["town", "26"],
            ['["town", "the town"]', "[26, 22]"],
            ["", ""],
        ),
        csv_table(tmp_path / "b.csv", ["answers"], [json.dumps([answer("town", 26)])], [json.dumps(BOTH)], ["[]"]),
        csv_table(
            tmp_path / "c.csv",
            ["answers"],
            ['{"text": ["town"], "answer_start": [26]}'],
            ['{"text": ["town", "the town"], "answer_start": [26, 22]}'],
            ['{"text": [], "answer_start": []}'],
        ),
    ]
    for path in paths:
        found = read_question_file(path)
        assert [question.texts for question in found.questions] == EXPECTED
        assert [a.start for question in found.questions for a in question.answers] == [26, 26, 22]
        assert all(question.labelled for question in found.questions)
        assert [question.id for question in found.questions] == ["line 2", "line 3", "line 4"]
        assert len(found.lines()) == 1


def test_answers_in_json_lines_and_parquet(tmp_path: Path) -> None:
    texts = [{"text": ["town"], "answer_start": [26]}, {"text": ["town", "the town"], "answer_start": [26, 22]}]
    for number, answers in enumerate((["town"], [answer("town", 26)], answer("town", 26), texts[0])):
        row = {"question": "Where?", "context": CONTEXT, "answers": answers, "title": "Boats", "id": 3}
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row))
        (question,) = read_question_file(tmp_path / f"{number}.jsonl").questions
        assert (question.answers, question.article, question.id) == ([Answer("town", 26)], "Boats", "3")
    table = pa.table(
        {"question": ["Where?"] * 3, "context": [CONTEXT] * 3, "answers": [*texts, {"text": [], "answer_start": []}]}
    )
    pq.write_table(table, tmp_path / "hub.parquet")
    found = read_question_file(tmp_path / "hub.parquet")
    assert [question.texts for question in found.questions] == EXPECTED
    assert found.questions[2].labelled


def test_a_text_that_looks_like_json_is_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "?", "context": "see [1] and {x}", "answer": "[1]", "start": 4}))
    assert read_question_file(path).questions[0].answers == [Answer("[1]", 4)]


def test_answers_without_a_place_are_looked_for(tmp_path: Path) -> None:
    found = read_question_file(csv_table(tmp_path / "a.csv", ["answer"], ["boat"], ["town"], ["ship"]))
    assert [question.texts for question in found.questions] == [["boat"], ["town"]]
    assert found.lines()[1:] == [
        "1 question left out: its answer is not in the context (first: line 4)",
        "1 answer without a stated place: the first of several places was taken (first: line 3)",
    ]


def test_a_table_without_answers_is_not_labelled(tmp_path: Path) -> None:
    for header, cell in (([], []), (["answer"], [""]), (["answers"], ["[]"])):
        found = read_question_file(csv_table(tmp_path / "a.csv", header, cell, cell))
        assert [question.labelled for question in found.questions] == [False, False]
        assert not found.labelled


def test_a_column_says_which_questions_have_no_answer(tmp_path: Path) -> None:
    rows = [["town", "false"], ["", "True"], ["", ""], ["", "0"], ["town", "1"], ["town", "maybe"]]
    found = read_question_file(csv_table(tmp_path / "a.csv", ["answer", "is_impossible"], *rows))
    assert [(question.texts, question.labelled) for question in found.questions] == [
        (["town"], True),
        ([], True),
        ([], False),
    ]
    assert {reason: places.first for reason, places in found.left_out.items()} == {
        "it has no answer although is_impossible is false": "line 5",
        "it has an answer although is_impossible is true": "line 6",
        "is_impossible is neither true nor false": "line 7",
    }
    only = read_question_file(csv_table(tmp_path / "b.csv", ["answer", "is_impossible"], ["", "1"]))
    assert only.questions[0].labelled


def test_other_names_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("q\tpassage\ta\nWhere?\tdown to town\ttown\n")
    columns = QuestionColumns(question="q", context="passage", answer="a")
    assert read_question_file(tmp_path / "a.tsv", columns).questions[0].texts == ["town"]
    with pytest.raises(InputError, match="there is no column 'question'; the columns are q, passage, a"):
        read_question_file(tmp_path / "a.tsv")
    with pytest.raises(InputError, match="there is no column 'answers'"):
        read_questions(open_table(tmp_path / "a.tsv"), QuestionColumns("q", "passage", "answers"))


def test_unequal_numbers_of_answers_and_starts_are_named(tmp_path: Path) -> None:
    path = csv_table(tmp_path / "a.csv", ["answer", "start"], ["boat", "4"], ['["town", "boat"]', "[26]"])
    assert "1 question left out: it has 2 answers but 1 starts (first: line 3)" in read_question_file(path).lines()


# ---- properties ----


@given(st.text(max_size=30), st.text(min_size=1, max_size=6), st.integers(-5, 40) | st.none())
def test_an_answer_is_where_it_says(context: str, text: str, start: int | None) -> None:
    found = QuestionList()
    found.add(Question("a", "q", f"x{context}", article="t"), [(text, start)], "line 1")
    for question in found.questions:
        for one in question.answers:
            assert question.context[one.start : one.end] == one.text == text.strip()
    if not text.strip():
        assert found.questions[0].labelled
        assert not found.questions[0].answers
    elif text.strip() in f"x{context}":
        places = [n for n in range(len(context) + 1) if f"x{context}".startswith(text.strip(), n)]
        wanted = places[0] if start is None else start + len(text) - len(text.lstrip())
        distance = abs(found.questions[0].answers[0].start - wanted)
        assert distance == (0 if start is None else min(abs(place - wanted) for place in places))
    else:
        assert found.left_out


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=40), st.integers(0, 3))
def test_no_article_and_no_context_is_divided(drawn: list[tuple[int, int]], seed: int) -> None:
    questions = [Question(str(n), "q", f"context {c}", article=f"{a}") for n, (a, c) in enumerate(drawn)]
    try:
        training, validation = split_by_article(Questions(Path("dev.json"), questions), 0.3, seed)
    except InputError as error:
        assert "no validation part can be drawn" in str(error)
        return
    assert sorted(int(q.id) for part in (training, validation) for q in part.questions) == list(range(len(questions)))
    assert training.questions
    assert validation.questions
    for name in ("article", "context"):
        parts = [{getattr(q, name) for q in part.questions} for part in (training, validation)]
        assert not parts[0] & parts[1]


def test_official_files(shared_data: Path) -> None:
    dev = read_question_file(shared_data / "squad" / "dev-v2.0.json.zst")
    assert (len(dev), len(dev.labelled), sum(bool(q.answers) for q in dev.questions)) == (6078, 6078, 2910)
    assert len(dev.lines()) == 1
    _, validation = split_by_article(dev, 0.2, 0)
    assert 0.1 < len(validation) / len(dev) < 0.3
    assert not read_question_file(shared_data / "squad" / "test-v2.0.json.zst").labelled
