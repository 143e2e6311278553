"""Texts that have none of the labels: never trained on, they set the probability below which a label says so."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from topic_tables import QUICK, TOPICS, sentence, write_csv

import neolm
from neolm.metrics.thresholds import scope_threshold

Command = Callable[..., tuple[int, str, str]]
NONE = "none of these"


def write(path: Path, count: int, seed: int, outside: int) -> Path:
    """Sentences about the coast or the time, and others about neither."""
    draw = random.Random(seed)
    rows = [(sentence(topic, draw), topic) for topic in [*TOPICS] * (count // 2)]
    filling = ["the", "cold", "and", "of", "is", "in", "was"]
    rows += [(" ".join(draw.choices(filling, k=draw.randrange(3, 7))), NONE) for _ in range(outside)]
    draw.shuffle(rows)
    return write_csv(path, ("text", "label"), rows)


def labels(model: Path, path: Path) -> tuple[list[str], list[str]]:
    """The labels of a table, and those that the model gives."""
    rows = [line.rsplit(",", 1) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return [label for _, label in rows], [one["label"] for one in neolm.predict(model, [text for text, _ in rows])]


CHANCE = st.floats(0, 1).map(lambda value: round(value, 2))


@given(st.lists(st.tuples(st.booleans(), CHANCE), min_size=1, max_size=12), st.lists(CHANCE, min_size=1, max_size=12))
def test_the_threshold_is_the_best_of_all(inside: list[tuple[bool, float]], outside: list[float]) -> None:
    def scores(limit: float) -> tuple[float, float]:
        right = sum(good and chance >= limit for good, chance in inside) / len(inside)
        return right, sum(chance < limit for chance in outside) / len(outside)

    found = scope_threshold([good for good, _ in inside], [chance for _, chance in inside], outside)
    assert (found.in_scope_accuracy, found.out_of_scope_recall) == pytest.approx(scores(found.confidence))
    best = max(sum(scores(limit / 100)) for limit in range(101))
    assert sum(scores(found.confidence)) == pytest.approx(best)
    assert 0 <= found.confidence <= 1


@pytest.mark.parametrize("method", ["probe", "full"])
def test_texts_without_a_label_are_told_apart(base: Path, tmp_path: Path, neolm_: Command, method: str) -> None:
    train, validation = write(tmp_path / "train.csv", 80, 1, 20), write(tmp_path / "validation.csv", 60, 2, 30)
    output = tmp_path / "run"
    settings = [f"finetune.out_of_scope_label={NONE}", f"finetune.method={method}", "finetune.tfidf=false", *QUICK]
    code, _, said = neolm_(
        "finetune", base, "--train", train, "--validation", validation, "--output", output, *settings
    )
    assert code == 0, said
    assert f"50 examples have the label {NONE!r}; none is trained on" in said
    assert f"{NONE!r} below a probability of" in said
    manifest = json.loads((output / "finetune" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"]["examples"] == {"train": 80, "validation": 60}
    stored = json.loads((output / "model" / "prediction.json").read_text(encoding="utf-8"))
    assert stored["abstain_label"] == NONE
    assert NONE not in json.loads((output / "model" / "config.json").read_text(encoding="utf-8"))["id2label"].values()
    gold, given_labels = (np.array(found) for found in labels(output, validation))
    scope = json.loads((output / "finetune" / "results.json").read_text(encoding="utf-8"))["scope"]
    inside = gold != NONE
    accuracy = (given_labels == gold)[inside].mean()
    more = np.array(labels(output, train)[1])[np.array(labels(output, train)[0]) == NONE]
    recall = (np.append(given_labels[~inside], more) == NONE).mean()
    assert (accuracy, recall) == pytest.approx((scope["in_scope_accuracy"], scope["out_of_scope_recall"]), abs=0.021)
    assert accuracy + recall > (1.3 if method == "full" else 1.0)
    code, printed, said = neolm_("evaluate", output, "--input", validation)
    assert code == 0, said
    table = {
        line.rsplit(None, 1)[0].strip(): float(line.rsplit(None, 1)[1])
        for line in printed.splitlines()
        if "scope" in line
    }
    assert table["in scope accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert table["out of scope recall"] == pytest.approx((given_labels[~inside] == NONE).mean(), abs=1e-4)
    (one,) = neolm.predict(output, "of the", settings={"abstain_below": 1.0, "abstain_label": "other"})
    assert one["label"] == "other"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["finetune.out_of_scope_label=nothing"], "finetune.out_of_scope_label: no example has the label 'nothing'"),
        (
            [f"finetune.out_of_scope_label={NONE}", "finetune.abstain_error=0.1"],
            "out_of_scope_label: give either this or abstain_error",
        ),
        (["finetune.out_of_scope_label=coast"], "a classifier needs two labels"),
    ],
)
def test_mistakes_are_one_line(base: Path, tmp_path: Path, neolm_: Command, settings: list[str], problem: str) -> None:
    train = write_csv(tmp_path / "train.csv", ("text", "label"), [("the sea", "coast"), ("the day", "time")] * 9)
    if "none" in settings[0]:
        train = write(tmp_path / "more.csv", 20, 1, 5)
    code, _, said = neolm_("finetune", base, "--train", train, "--output", tmp_path / "run", *settings)
    assert code == 2
    assert problem in said.splitlines()[-1]


def test_other_tasks_ignore_it_and_say_so(base: Path, tmp_path: Path, neolm_: Command) -> None:
    train = write_csv(
        tmp_path / "train.csv",
        ("text", "label"),
        [(f"the {a} {b}", len(a)) for a in ("sea", "water") for b in "abcdefghijkl"],
    )
    settings: list[Any] = ["finetune.out_of_scope_label=3", "finetune.method=probe", "finetune.tfidf=false", *QUICK]
    code, _, said = neolm_(
        "finetune", base, "--task", "regression", "--train", train, "--output", tmp_path / "run", *settings
    )
    assert code == 0, said
    assert "finetune.out_of_scope_label has no effect here, because task is regression" in said
    assert json.loads((tmp_path / "run" / "finetune" / "results.json").read_text(encoding="utf-8"))["scope"] is None
