"""The card of a policy: the page has the numbers of the audit's JSON, and what several policies block together."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Page
from topic_tables import write_csv
from word_classifier import CATEGORY, write_policy, write_word_classifier

from neolm.core.files import digest_file
from neolm.moderation.moderator import Moderator

Call = Callable[..., tuple[int, str, str]]
HOSTILE = "<b>&'\"</script>"
COLUMNS = ("--text-column", "comment", "--label-column", "verdict", "--positive", "rude")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies and a table: `first.yaml` blocks prompts with cold, `second.yaml` those with cold or sea."""
    folder = tmp_path_factory.mktemp("card")
    model = write_word_classifier(folder / "model", {"fine": [], "bad": ["cold"], "wet": ["sea"]}, sharpness=30.0)
    block = {**CATEGORY, "threshold": 0.5, "prompt": "block"}
    categories = {"coldness": block, HOSTILE: {**CATEGORY, "labels": ["bad", "wet"], "answer": "allow"}}
    write_policy(folder / "first.yaml", model, canaries=None, categories=categories)
    write_policy(
        folder / "second.yaml",
        model,
        canaries=None,
        categories={"both": {**block, "labels": ["bad", "wet"], "threshold": 0.9}},
    )
    draw = random.Random(1)
    rows = []
    for _ in range(150):
        words = draw.choices(["the", "sea", "cold", "day"], weights=[4, 1, 1, 4], k=draw.randrange(2, 12))
        label = "rude" if ("cold" in words) == (draw.random() < 0.8) else "polite"
        rows.append((" ".join(words), label, draw.choice(["north", HOSTILE]), f"{label}_{draw.choice('ab')}"))
    write_csv(folder / "in.csv", ("comment", "verdict", "place", "kind"), [*rows, ("", "rude", "north", "a")])
    return folder


@pytest.fixture(scope="module")
def card(place: Path) -> tuple[Any, Page]:
    """The JSON of an audit and its page, from the command."""
    command = [
        "moderate",
        "first.yaml",
        "second.yaml",
        "--audit",
        "in.csv",
        *COLUMNS,
        "--output",
        "card.html",
        "--json",
    ]
    command += ["--group-column", "place", "--group-column", "kind"]
    done = subprocess.run(
        [sys.executable, "-m", "neolm", *command], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "moderate: card.html"
    return json.loads(done.stdout), Page((place / "card.html").read_text(encoding="utf-8"))


def rate(value: Any) -> str:
    return f"{value['value']:.1%} ({value['low']:.1%} to {value['high']:.1%})" if value else "\u2013"


def has_row(page: Page, *cells: str) -> bool:
    """Whether the cells follow each other in the text of the page."""
    return "\n".join(cells) in page.text.replace("\n\n", "\n")


def test_the_numbers_of_the_page_are_those_of_the_json(card: tuple[Any, Page]) -> None:
    found, page = card
    page.assert_self_contained()
    assert len(page.ids) == len({*page.ids})
    errors = ("false_positive_rate", "false_negative_rate")
    for name, one in found["categories"].items():
        for title, key in (("AUROC", "auroc"), ("AUPRC", "auprc"), ("Balanced accuracy", "balanced_accuracy")):
            assert has_row(page, title, f"{one[key]:.4f}")
        assert has_row(page, "Calibration error", f"{one['calibration_error']:.4f}")
        majority = f"always giving the same answer has {one['majority_rate']:.1%}"
        assert has_row(page, "Accuracy", rate(one["accuracy"]), majority)
        assert has_row(page, "False-positive rate", rate(one["false_positive_rate"]))
        assert has_row(page, "False-negative rate", rate(one["false_negative_rate"]))
        for at, values in one["curve"].items():
            assert has_row(page, at, *(f"{value:.3f}" for value in values.values()))
        assert {*one["groups"]} == {"place", "kind"}
        for rows in one["groups"].values():
            for group, row in rows.items():
                rates = (rate(row.get(key)) for key in ("accuracy", *errors))
                assert has_row(page, group, str(row["texts"]), *rates)
        for row in found["swaps"][name]:
            ends = (row["lowest"], f"{row['from']:.4f}", row["highest"], f"{row['to']:.4f}")
            assert has_row(page, row["template"].format("[group]"), *ends, str(row["in_category"]))
        assert f"{', '.join(one['model_labels'])} ({one['model']})" in page.text
    for name, row in found["blocked"].items():
        assert has_row(page, name, *(rate(row[part]) for part in ("all", "in_category", "others")))
    for text in (found["digest"], found["table"]["sha256"], found["neolm"], "version 7, mode block", "1 row left out"):
        assert text in page.text


def test_pictures_show_calibration_costs_and_groups(card: tuple[Any, Page]) -> None:
    found, page = card
    titles = [part.partition("<")[0] for part in page.html.split('-title">')[1:]]
    for title in (
        "share that is in it by probability",
        "false positives and false negatives: share by threshold",
        "cost 1:1 and cost 1:5 and cost 5:1: cost by threshold",
        "Wrongly caught, of the others, by place",
        "Missed, of the texts in it, by kind",
    ):
        assert titles.count(title) == 2 * len(found["categories"])  # two widths
    spots = sum(len(one["reliability"]) for one in found["categories"].values())
    assert page.html.count(" ranges of probabilities") == 2 * len(found["categories"])
    assert spots > 4
    for one in found["categories"].values():
        rows = one["reliability"]
        assert sum(row["count"] for row in rows) == found["texts"] == 150
        error = sum(row["count"] * abs(row["rate"]["value"] - row["probability"]) for row in rows) / 150
        assert one["calibration_error"] == pytest.approx(error)


def test_what_several_policies_block_together(card: tuple[Any, Page], place: Path) -> None:
    found, _ = card
    rows = [line.split(",") for line in (place / "in.csv").read_text().splitlines()[1:151]]
    gold = np.array([row[1] == "rude" for row in rows])
    blocked = []
    for name, category in (("first", "coldness"), ("second", "both")):
        moderator = Moderator(place / f"{name}.yaml")
        scores = moderator.scores([moderator.encode(row[0]) for row in rows])
        blocked.append(np.array([score[category].value >= moderator.thresholds[category] for score in scores]))
    expected = {"first.yaml": blocked[0], "second.yaml": blocked[1]}
    expected |= {"any policy": blocked[0] | blocked[1], "all policies": blocked[0] & blocked[1]}
    assert [*found["blocked"]] == [*expected]
    for name, one in expected.items():
        shares = [found["blocked"][name][part]["value"] for part in ("all", "in_category", "others")]
        assert shares == pytest.approx([one.mean(), one[gold].mean(), one[~gold].mean()])
    assert 0 < expected["all policies"].sum() < blocked[0].sum() < expected["any policy"].sum()
    assert found["table"]["sha256"] == digest_file(place / "in.csv")
    assert (found["side"], found["policy"], found["version"]) == ("prompt", "first.yaml", "7")


def test_a_policy_that_is_no_better_than_chance_is_called_so(neolm_: Call, place: Path, tmp_path: Path) -> None:
    first, page = place / "first.yaml", tmp_path / "card.html"
    rows = [("cold", "rude"), ("cold", "polite"), ("the day", "rude"), ("the day", "polite")] * 3
    weak = write_csv(tmp_path / "weak.csv", ("comment", "verdict"), rows)
    good = write_csv(tmp_path / "good.csv", ("comment", "verdict"), [("cold", "rude"), ("the day", "polite")] * 3)
    one_sided = write_csv(tmp_path / "one.csv", ("comment", "verdict"), [("cold", "rude")] * 3)
    for table, headline, part in (
        (weak, "Do not block by first.yaml yet", "\u201ccoldness\u201d is hardly better than chance on this table"),
        (good, "What first.yaml catches, and what it misses", "finds 100% of the texts in it and wrongly catches 0%"),
        (one_sided, "What first.yaml catches, and what it misses", "finds 100% of the texts in it, from a probability"),
    ):
        code, out, err = neolm_("moderate", first, "--audit", table, *COLUMNS, "--output", page)
        assert code == 0, err
        text = Page(page.read_text(encoding="utf-8")).text
        assert headline in text
        assert part in text
    assert "BLOCKED AS PROMPTS" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "card.csv"), "card.csv: with --audit, --output is a page, such as card.html"),
        (("--output", "no/card.html"), "no/card.html: there is no such directory as no"),
        (("--output", "own.html"), "own.html: this is not a page written by NeoLM, and it was not changed"),
        (("missing.yaml", "--output", "card.html"), "missing.yaml"),
    ],
)
def test_mistakes_are_one_line(
    neolm_: Call, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.html").write_text("<p>mine</p>", encoding="utf-8")
    code, out, err = neolm_("moderate", place / "first.yaml", "--audit", place / "in.csv", *COLUMNS, *options)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["own.html"]
    assert (tmp_path / "own.html").read_text() == "<p>mine</p>"
