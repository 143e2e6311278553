"""Conversations in the forms that are in use, and rows that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from neolm.core.errors import InputError
from neolm.tables.conversations import read_conversations
from neolm.tables.table import open_table

ASK, ANSWER = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}
SAID = [("user", "Who?"), ("assistant", "I.")]


def write(path: Path, rows: list[Any]) -> Path:
    lists = path.suffix == ".json"
    path.write_text(json.dumps(rows) if lists else "\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "form", "turns"),
    [
        ({"messages": [ASK, ANSWER]}, "messages", SAID),
        ({"messages": [{"role": "system", "content": "S"}, ASK, ANSWER]}, "messages", [("system", "S"), *SAID]),
        ({"messages": [{**ASK, "content": [{"type": "text", "text": "Who?"}]}, ANSWER]}, "messages", SAID),
        ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]}, "messages", SAID),
        ({"conversations": [ASK, ANSWER], "system": "S"}, "messages", [("system", "S"), *SAID]),
        ({"instruction": "Who?", "input": "", "output": "I."}, "alpaca", SAID),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "alpaca", [("user", "Add.\n1 2"), ("assistant", "3")]),
        (
            {"instruction": "b", "output": "c", "history": [["x", "y"]]},
            "alpaca",
            [("user", "x"), ("assistant", "y"), ("user", "b"), ("assistant", "c")],
        ),
        ({"prompt": "Who?", "completion": "I."}, "prompt", SAID),
        ({"prompt": "Who?", "response": "I."}, "prompt", SAID),
        (
            {
                "prompt": {
                    "role": "prompter",
                    "text": "Who?",
                    "replies": [
                        {"role": "assistant", "text": "worse", "rank": 1, "replies": []},
                        {"role": "assistant", "text": "gone", "rank": 0, "deleted": True, "replies": []},
                        {"role": "assistant", "text": "I.", "rank": 0, "replies": []},
                    ],
                }
            },
            "tree",
            SAID,
        ),
        ({"text": "Who?", "label": "I."}, "columns", [("user", "Q: Who?"), ("assistant", "I.")]),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_forms(tmp_path: Path, row: dict[str, Any], form: str, turns: list[tuple[str, str]], suffix: str) -> None:
    table = open_table(write(tmp_path / f"rows{suffix}", [row]))
    found = read_conversations(table, prompt="Q: ")
    assert found.form == form
    assert list(found.conversations[0].turns) == turns


def test_named_columns_go_before_what_is_detected(tmp_path: Path) -> None:
    row = {"messages": [ASK, ANSWER], "dialog": [{"role": "user", "content": "x"}, ANSWER], "a": "p", "b": "q"}
    table = open_table(write(tmp_path / "rows.jsonl", [row]))
    assert list(read_conversations(table, "a", "b").conversations[0].turns) == [("user", "p"), ("assistant", "q")]
    assert read_conversations(table, "dialog").conversations[0].turns[0].text == "x"
    with pytest.raises(InputError, match="there is no column 'c'"):
        read_conversations(table, "a", "c")


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"messages": [ASK, ANSWER]},
        {"messages": [ASK]},
        {"messages": [{"role": "tool", "content": "x"}, ANSWER]},
        {"messages": [ASK, {"role": "assistant", "content": "  "}]},
        {"messages": [ASK, {"role": "assistant"}]},
        {"messages": [ANSWER]},
        {"messages": "nothing"},
        {"messages": [ASK, ANSWER, ASK]},
        {"messages": [ASK, {"role": "system", "content": "S"}, ANSWER]},
    ]
    found = read_conversations(open_table(write(tmp_path / "rows.jsonl", rows)))
    assert [one.place.rpartition(", ")[2] for one in found.conversations] == ["line 1", "line 8"]
    said = "\n".join(found.lines())
    assert "1 row left out: there is no answer (first: line 2)" in said
    assert {reason.partition(";")[0]: places.first for reason, places in found.left_out.items()} == {
        "there is no answer": "line 2",
        "the role 'tool' is unknown": "line 3",
        "the answer is empty": "line 4",
        "a message of the assistant has no text": "line 5",
        "there is no message of the user before the answer": "line 6",
        "the messages are not a list, nor JSON": "line 7",
        "the order of the roles is not system, user, assistant, user, assistant, ...": "line 9",
    }
    assert "conversations that repeat an earlier one: 1" in said
    assert "messages after the last answer, which are not read: 1 (first: line 8)" in said


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"title": "x", "body": "y"}], r"the columns \(title, body\) are not those of conversations"),
        ([{"messages": [ASK]}], "no row is a conversation with an answer; 1 row left out: there is no answer"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_conversations(open_table(write(tmp_path / "rows.jsonl", rows)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a JSON list of objects"),
        ("[1]", "not a JSON list of objects"),
        ("[{", "not valid JSON"),
        ("", "empty"),
    ],
)
def test_json_files_that_are_no_lists(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        open_table(path)
