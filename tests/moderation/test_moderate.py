"""`neolm moderate`: texts, files, kill and resume, dry runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from topic_tables import write_csv
from word_classifier import CATEGORY

from neolm.moderation.moderator import Moderator

Call = Callable[..., tuple[int, str, str]]
ROWS = [(1, "the sea"), (2, "a cold day"), (3, ""), (4, "the clock"), (5, "cold, cold sea")]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_texts_are_judged_as_prompts_or_as_answers(neolm_: Call, policy: Callable[..., Path]) -> None:
    code, out, _ = neolm_("moderate", policy(), "the cold sea", "the day", "--json")
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert first | {"scores": {}} == {
        "text": "the cold sea",
        "action": "flag",
        "categories": ["coldness"],
        "scores": {},
        "windows": {},
    }
    assert first["scores"]["coldness"] > 0.99
    assert (second["action"], second["categories"]) == ("allow", [])
    assert neolm_("moderate", policy(), "cold", "--side", "answer")[1] == "block\n  coldness 1.000 >= 0.5\n"


def test_rows_get_the_decision_in_order_and_bad_rows_a_reason(
    neolm_: Call, policy: Callable[..., Path], tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "in.csv", ("id", "text"), ROWS)
    code, _, err = neolm_("moderate", policy(), "--input", table, "--output", tmp_path / "out.csv")
    found = rows_of(tmp_path / "out.csv")
    assert code == 2
    assert "moderate: 4 of 5 rows done; line 4: the text is empty" in err
    assert [row["action"] for row in found] == ["allow", "flag", "", "allow", "flag"]
    assert [row["id"] for row in found] == ["1", "2", "3", "4", "5"]
    assert found[2]["error"] == "the text is empty"
    code, out, _ = neolm_("moderate", policy(), "--input", table)
    assert [json.loads(line).get("action") for line in out.splitlines()] == ["allow", "flag", None, "allow", "flag"]


def test_a_killed_file_is_resumed_to_the_same_bits(
    neolm_: Call, policy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(n, "the sea " * (n % 5) + ("cold" if n % 3 == 0 else "day")) for n in range(40)]
    table = write_csv(tmp_path / "in.csv", ("id", "text"), rows)
    command = ("moderate", policy(), "--input", table, "--batch-size", "8", "--output")
    assert neolm_(*command, tmp_path / "whole.csv")[0] == 0
    predict, calls = Moderator.predict, []

    def interrupted(self: Moderator, batch: Any) -> Any:
        calls.append(len(batch))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, batch)

    monkeypatch.setattr(Moderator, "predict", interrupted)
    assert neolm_(*command, tmp_path / "part.csv")[0] == 130
    assert not (tmp_path / "part.csv").exists()
    code, _, err = neolm_(*command, tmp_path / "part.csv")
    assert code == 0
    assert "16 rows were done before" in err
    assert (tmp_path / "part.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(calls) == 3 + 3


def test_a_changed_policy_starts_a_file_anew(
    neolm_: Call, policy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_csv(tmp_path / "in.csv", ("id", "text"), [(n, "the cold sea") for n in range(20)])
    command = ("--input", table, "--batch-size", "8", "--output", tmp_path / "out.csv")
    predict, calls = Moderator.predict, []

    def interrupted(self: Moderator, batch: Any) -> Any:
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict(self, batch)

    monkeypatch.setattr(Moderator, "predict", interrupted)
    assert neolm_("moderate", policy(), *command)[0] == 130
    changed = policy(categories={"coldness": {**CATEGORY, "prompt": "block"}})
    code, _, err = neolm_("moderate", changed, *command)
    assert (code, "starting anew" in err) == (0, True)
    assert {row["action"] for row in rows_of(tmp_path / "out.csv")} == {"block"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give texts, or a table"),
        (("the sea", "--output", "x.csv"), "--output is for --input and --audit"),
        (("the sea", "--input", "in.csv"), "give texts, or a table"),
        (("--dry-run", "in.csv", "--input", "in.csv"), "give texts, or a table"),
        (("--input", "none.csv"), "there is no such file"),
        (("--input", "in.csv", "--text-column", "txt"), "did you mean 'text'?"),
        (("--input", "in.csv", "--output", "out.xlsx"), "tables are written to"),
        ((" ",), "the text is empty"),
    ],
)
def test_mistakes_are_one_line(
    neolm_: Call, policy: Callable[..., Path], arguments: Any, message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "in.csv", ("id", "text"), ROWS)
    code, out, err = neolm_("moderate", policy(), *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_hostile_tables_give_reasons_and_the_rest_goes_on(
    neolm_: Call, policy: Callable[..., Path], tmp_path: Path
) -> None:
    lines = [
        b'{"text": "cold"}',
        b'{"text": 3}',
        b"[1]",
        b'{"text": "\xff"}',
        b'{"no": 1}',
        b'{"text": "\\u0000 cold"}',
    ]
    lines += [b'{"text": "\\ud800 cold"}', b"{", b'{"text": "' + b"cold " * 30_000 + b'"}']
    table = tmp_path / "in.jsonl"
    table.write_bytes(b"\n".join(lines))
    code, _, err = neolm_("moderate", policy(), "--input", table, "--output", tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert code == 2
    assert "of 9 rows done" in err
    assert len(found) == 9
    assert found[0]["action"] == found[5]["action"] == found[8]["action"] == "flag"
    assert all(row.get("error") for row in (found[1], found[2], found[3], found[4], found[7]))


def test_a_dry_run_says_what_would_have_happened_and_writes_nothing(
    neolm_: Call, policy: Callable[..., Path], classifiers: Path, tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "in.csv", ("id", "text"), [*ROWS, (6, "water"), (7, "day")])
    first = policy("first.yaml", mode="observe")
    sea = {**CATEGORY, "labels": ["sea"], "prompt": "block", "threshold": 0.3}
    models = {"words": str(classifiers / "several")}
    categories = {"sea": sea, "day": {**sea, "labels": ["day"]}}
    second = policy("second.yaml", models=models, categories=categories, canaries=None)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, out, _ = neolm_("moderate", first, second, "--dry-run", table, "--json")
    assert code == 0
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    found = json.loads(out)
    assert (found["texts"], found["left_out"]) == (6, ["1 row left out: the text is empty (first: line 4)"])
    one, two = found["policies"]
    assert (one["mode"], one["categories"]["coldness"]["flag"], one["together"]["flag"]) == ("observe", 2, 2)
    assert [two["categories"][name]["block"] for name in ("sea", "day")] == [3, 2]  # 1, 5, 6; 2, 7
    assert two["together"] == {"allow": 1, "flag": 0, "block": 5}
    assert found["blocked_by_any_policy"] == pytest.approx(5 / 6)
    assert found["blocked_by_all_policies"] == 0
    moderator = Moderator(second)
    texts = [text for _, text in [*ROWS, (6, "water"), (7, "day")] if text]
    values = np.array([one["sea"].value for one in moderator.scores([moderator.encode(text) for text in texts])])
    assert two["categories"]["sea"]["share_from_threshold"]["0.5"] == np.mean(values >= 0.5)
    nearest = two["categories"]["sea"]["nearest"]
    order = np.sort(np.abs(values - 0.3))[:5]
    assert [abs(text["score"] - 0.3) for text in nearest] == pytest.approx(order.tolist())
    both = json.loads(neolm_("moderate", second, second, "--dry-run", table, "--json")[1])
    assert both["blocked_by_any_policy"] == both["blocked_by_all_policies"] == pytest.approx(5 / 6)
    shown = neolm_("moderate", first, second, "--dry-run", table)[1]
    assert "6 texts judged as prompts, none blocked; 1 row left out" in shown
    assert "its mode is observe, which blocks nothing" in shown
    assert "Would be blocked of 2 policies: 83.3% by any, 0.0% by all" in shown


def test_a_dry_run_without_a_text_is_refused(neolm_: Call, policy: Callable[..., Path], tmp_path: Path) -> None:
    table = write_csv(tmp_path / "in.csv", ("id", "text"), [(1, ""), (2, " ")])
    code, _, err = neolm_("moderate", policy(), "--dry-run", table)
    assert code == 2
    assert "no row can be judged; 2 rows left out: the text is empty (first: line 2)" in err
