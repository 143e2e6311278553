"""The audit: scores as scikit-learn computes them, errors by group, swapped identities, the mapping of the labels."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from topic_tables import write_csv
from word_classifier import CATEGORY, write_policy, write_word_classifier

from neolm.moderation.audit import audit
from neolm.moderation.moderator import Moderator
from neolm.tables.table import open_table

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose scores depend on the share of a word."""
    place = tmp_path_factory.mktemp("soft")
    model = write_word_classifier(place / "model", {"fine": [], "bad": ["cold"]}, sharpness=30.0)
    categories = {"coldness": {**CATEGORY, "threshold": 0.6}}
    return write_policy(place / "policy.yaml", model, canaries=None, categories=categories)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(1)
    rows = []
    for _ in range(120):
        words = draw.choices(["the", "sea", "cold", "day"], weights=[4, 4, 1, 4], k=draw.randrange(4, 20))
        label = "rude" if ("cold" in words) == (draw.random() < 0.8) else "polite"
        rows.append((" ".join(words), label, draw.choice(["north", "south", "east"]), draw.choice("ab")))
    rows += [("", "rude", "north", "a"), ("the sea", "", "north", "a")]
    header = ("comment", "verdict", "place", "kind")
    return write_csv(tmp_path_factory.mktemp("labelled") / "in.csv", header, rows)


def audited(policy: Path, table: Path, **fields: Any) -> Any:
    return audit(Moderator(policy), open_table(table), ("comment", "verdict"), **fields)


def test_scores_are_those_of_scikit_learn(soft: Path, labelled: Path) -> None:
    found = audited(soft, labelled, positive=["rude"], groups=["place", "kind"], batch_size=7)
    one = found["categories"]["coldness"]
    rows = [row.values for row in open_table(labelled).rows()][:120]
    gold = np.array([row["verdict"] == "rude" for row in rows])
    moderator = Moderator(soft)
    scores = moderator.scores([moderator.encode(row["comment"]) for row in rows])
    values = np.array([score["coldness"].value for score in scores])
    predicted = values >= 0.6
    assert 10 < predicted.sum() < 110
    assert found["texts"] == 120
    assert len(found["left_out"]) == 2
    assert one["auroc"] == pytest.approx(metrics.roc_auc_score(gold, values))
    assert one["auprc"] == pytest.approx(metrics.average_precision_score(gold, values))
    assert one["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(gold, predicted))
    assert one["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert one["majority_rate"] == pytest.approx(max(gold.mean(), 1 - gold.mean()))
    assert one["false_positive_rate"]["value"] == pytest.approx(predicted[~gold].mean())
    assert one["false_negative_rate"]["value"] == pytest.approx((~predicted)[gold].mean())
    right = (gold == predicted).mean()
    assert one["curve"]["0.6"]["cost 1:1"] == pytest.approx(1 - right)
    wrong = (predicted & ~gold).mean()
    assert one["curve"]["0.6"]["cost 5:1"] == pytest.approx(5 * wrong + (1 - right - wrong))
    for column in ("place", "kind"):
        for group, counted in one["groups"][column].items():
            inside = np.array([row[column] == group for row in rows])
            assert counted["texts"] == inside.sum()
            rate = counted["false_positive_rate"]
            assert rate["value"] == pytest.approx(predicted[inside & ~gold].mean())
            assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
            assert counted["false_negative_rate"]["value"] == pytest.approx((~predicted)[inside & gold].mean())
            assert counted["accuracy"]["value"] == pytest.approx((gold == predicted)[inside].mean())


def test_calibration_is_perfect_where_probabilities_are_and_not_elsewhere(tmp_path: Path) -> None:
    model = write_word_classifier(tmp_path / "model", {"fine": [], "bad": ["cold"]})
    policy = write_policy(tmp_path / "policy.yaml", model, canaries=None)
    right = write_csv(tmp_path / "r.csv", ("comment", "verdict"), [("cold", "bad"), ("the sea", "fine")] * 8)
    assert audited(policy, right)["categories"]["coldness"]["calibration_error"] < 1e-3
    wrong = write_csv(tmp_path / "w.csv", ("comment", "verdict"), [("cold", "bad"), ("cold", "fine")] * 8)
    assert audited(policy, wrong)["categories"]["coldness"]["calibration_error"] == pytest.approx(0.5, abs=1e-3)


def test_groups_far_from_the_mean_are_marked(tmp_path: Path) -> None:
    model = write_word_classifier(tmp_path / "model", {"fine": [], "bad": ["cold"]})
    policy = write_policy(tmp_path / "policy.yaml", model, canaries=None)
    rows = [("the sea", "fine", "x")] * 20 + [("cold", "bad", "x")]
    rows += [("the sea", "fine", "y")] * 19 + [("cold", "fine", "y")] + [("cold", "fine", "z")] * 5
    table = write_csv(tmp_path / "in.csv", ("comment", "verdict", "group"), rows)
    groups = audited(policy, table, groups=["group"])["categories"]["coldness"]["groups"]["group"]
    assert [groups[name]["false_positive_rate"]["value"] for name in "xyz"] == [0, 0.05, 1]
    assert [groups[name]["far"] for name in "xyz"] == [True, True, True]  # the mean is 0.35
    assert "false_negative_rate" not in groups["z"]


def test_the_mapping_of_labels_is_stated_and_can_differ_by_category(soft: Path, labelled: Path, tmp_path: Path) -> None:
    model = soft.parent / "model"
    categories = {name: {**CATEGORY, "labels": ["bad"]} for name in ("one", "two")}
    policy = write_policy(tmp_path / "p.yaml", model, canaries=None, categories=categories)
    found = audited(policy, labelled, positive=["rude", "two=polite"])["categories"]
    assert [*found["one"]["positive"]] == [*found["two"]["negative"]] == ["rude"]
    assert [*found["two"]["positive"]] == ["polite"]
    assert found["one"]["model_labels"] == ["bad"]
    assert found["one"]["auroc"] == pytest.approx(1 - found["two"]["auroc"])


def test_swapped_identities_show_which_words_move_the_score(tmp_path: Path) -> None:
    """The classifier reads words that begin with w: women, white people, and a template of its own."""
    model = write_word_classifier(tmp_path / "model", {"fine": [], "bad": ["w"]})
    policy = write_policy(tmp_path / "p.yaml", model, canaries=None)
    table = write_csv(tmp_path / "in.csv", ("comment", "verdict"), [("w", "bad"), ("the sea", "fine")])
    swaps = {row["template"]: row for row in audited(policy, table)["swaps"]["coldness"]}
    row = swaps["My neighbours are {}."]
    assert (row["in_category"], row["highest"] in ("women", "white people")) == (2, True)
    assert row["from"] < 0.01
    assert row["to"] > 0.99
    assert swaps["I wrote an article about {}."]["in_category"] == 14


def test_a_group_is_a_value_of_the_column_also_if_it_is_zero(soft: Path, tmp_path: Path) -> None:
    rows = [{"comment": "cold", "verdict": "bad", "group": 0}, {"comment": "sea", "verdict": "fine", "group": None}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = audited(soft, tmp_path / "in.jsonl", groups=["group"])["categories"]["coldness"]
    assert [*found["groups"]["group"]] == ["0", "(none)"]


def test_the_command_prints_tables_or_json(neolm_: Call, soft: Path, labelled: Path) -> None:
    command = ["moderate", soft, "--audit", labelled, "--text-column", "comment", "--label-column", "verdict"]
    command += ["--positive", "rude", "--group-column", "place", "--group-column", "kind"]
    code, out, _ = neolm_(*command, "--json")
    found = json.loads(out)
    assert code == 0
    assert [*found["categories"]["coldness"]["groups"]] == ["place", "kind"]
    code, out, err = neolm_(*command)
    assert code == 0
    assert "5 columns" not in err
    assert "4 columns, comma-separated" in err
    for part in ("120 labelled texts; 1 row left out", "auroc ", "place ", "kind ", "I hate ...", "of 14 groups"):
        assert part in out
    rude = [*open_table(labelled).rows()]
    count = sum(row.values["verdict"] == "rude" and bool(row.values["comment"]) for row in rude)
    assert f"coldness: the model's bad, from 0.6. Of the table, rude ({count}) is in the category, polite (" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "in.csv has no label of the category coldness, only polite, rude; say what is: --positive coldness=LABEL"),
        (("--positive", "rude", "--positive", "mean"), "in.csv has no label 'mean', only polite, rude"),
        (("--positive", "rude", "--positive", "heat=rude"), "in.csv has no label 'heat=rude'"),
        (("--positive", "rude", "--group-column", "region"), "there is no column 'region'"),
        (("--positive", "rude", "--input", "x.csv"), "give texts, or a table"),
    ],
)
def test_mistakes_are_one_line(neolm_: Call, soft: Path, labelled: Path, options: Any, message: str) -> None:
    columns = ("--text-column", "comment", "--label-column", "verdict")
    code, out, err = neolm_("moderate", soft, "--audit", labelled, *columns, *options)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1].replace("rude, polite", "polite, rude")


def test_a_table_of_one_kind_has_no_auroc_and_says_so(neolm_: Call, soft: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "in.csv", ("text", "label"), [("cold", "bad"), ("the sea", "bad")])
    code, out, _ = neolm_("moderate", soft, "--audit", table)
    assert code == 0
    assert "auroc                -" in out
    assert "false positive rate  -" in out
    assert "bad (2) is in the category, nothing is not" in out
