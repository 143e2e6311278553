"""`neolm evaluate` of a classifier on a table, recomputed with scikit-learn from the output of `neolm predict`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef
from tiny_encoders import VOCABULARY, tiny_encoder, write_classifier
from topic_tables import write_csv

import neolm
from neolm.models.hf import save_model

Command = Callable[..., tuple[int, str, str]]
WORDS = ["sea", "water", "day", "clock", "cold", "of", "is", "was"]


def rows(labels: list[str]) -> list[tuple[str, str]]:
    texts = [f"the {WORDS[n % 8]} {WORDS[n // 8 % 8]} {WORDS[n * 5 % 7]}" for n in range(60)]
    return [(text, labels[n * 7 // 3 % len(labels)]) for n, text in enumerate(texts)]


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return write_classifier(tmp_path / "classifier", labels=("a", "b", "c"))


def test_scores_are_those_of_scikit_learn(classifier: Path, tmp_path: Path, neolm_: Command) -> None:
    test = write_csv(tmp_path / "test.csv", ("text", "label"), rows(["a", "b", "c"]))
    code, out, err = neolm_("evaluate", classifier, "--input", test, "--output", tmp_path / "scores.json")
    assert code == 0, err
    found = json.loads((tmp_path / "scores.json").read_text())
    assert neolm_("predict", classifier, "--input", test, "--output", tmp_path / "out.csv")[0] == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        predicted = list(csv.DictReader(file))
    gold, guess = [row["given_label"] for row in predicted], [row["label"] for row in predicted]
    scores = found["scores"]
    assert scores["accuracy"] == pytest.approx(accuracy_score(gold, guess))
    assert scores["macro_f1"] == pytest.approx(f1_score(gold, guess, average="macro"))
    assert scores["matthews"] == pytest.approx(matthews_corrcoef(gold, guess))
    assert f"{scores['accuracy']:.4f}" in out
    assert found["interval"]["low"] < scores["accuracy"] < found["interval"]["high"]
    assert found["protocol"]["data"]["examples"] == 60
    assert sum(sum(row) for row in found["details"]["matrix"]) == 60
    again = neolm.predict(classifier, [row["text"] for row in predicted])
    chances = [[one["probabilities"][name] for name in "abc"] for one in again]
    assert scores["log_loss"] == pytest.approx(log_loss(gold, chances), abs=1e-5)


def test_stored_temperature_and_thresholds_are_obeyed(tmp_path: Path, neolm_: Command) -> None:
    settings = {"temperature": 2.0, "thresholds": {"p": 0.7, "q": 0.2}}
    fields = {"num_labels": 2, "labels": ("p", "q"), "problem": "multi_label_classification"}
    directory = write_classifier(tmp_path / "several", settings, **fields)
    table = [(text, n % 2, n % 3 // 2) for n, (text, _) in enumerate(rows(["x"]))]
    test = write_csv(tmp_path / "test.csv", ("text", "p", "q"), table)
    columns = ("--label-column", "p", "--label-column", "q")
    code, _, err = neolm_("evaluate", directory, "--input", test, *columns, "--output", tmp_path / "scores.json")
    assert code == 0, err
    found = json.loads((tmp_path / "scores.json").read_text())
    predicted = [one["label"] for one in neolm.predict(directory, [row[0] for row in table])]
    gold = torch.tensor([row[1:] for row in table])
    guess = torch.tensor([[name in labels for name in "pq"] for labels in predicted]).int()
    assert found["scores"]["macro_f1"] == pytest.approx(f1_score(gold, guess, average="macro", zero_division=0))
    assert found["scores"]["accuracy"] == pytest.approx(float((gold == guess).float().mean()))


def test_the_temperature_divides_the_logits(classifier: Path, tmp_path: Path, neolm_: Command) -> None:
    texts = [text for text, _ in rows(["x"])]
    test = write_csv(tmp_path / "test.csv", ("text", "label"), rows(["a", "b", "c"]))
    logarithms, losses = {}, {}
    for temperature in (1.0, 4.0):
        settings = {"task": "classification", "temperature": temperature}
        (classifier / "prediction.json").write_text(json.dumps(settings))
        found = [[one["probabilities"][name] for name in "abc"] for one in neolm.predict(classifier, texts)]
        logarithms[temperature] = torch.tensor(found, dtype=torch.float64).log()
        code, _, err = neolm_("evaluate", classifier, "--input", test, "--output", tmp_path / f"{temperature}.json")
        assert code == 0, err
        losses[temperature] = json.loads((tmp_path / f"{temperature}.json").read_text())["scores"]["log_loss"]
    plain, flat = (values - values.mean(dim=1, keepdim=True) for values in logarithms.values())
    torch.testing.assert_close(flat, plain / 4, rtol=1e-4, atol=1e-5)
    assert losses[1.0] != pytest.approx(losses[4.0], rel=1e-3)


def test_permuted_labels_are_noticed(classifier: Path, tmp_path: Path, neolm_: Command) -> None:
    texts = [text for text, _ in rows(["x"])]
    given = [one["label"] for one in neolm.predict(classifier, texts)]
    exchanged = {"a": "b", "b": "c", "c": "a"}
    table = [(text, exchanged[label]) for text, label in zip(texts, given, strict=True)]
    test = write_csv(tmp_path / "test.csv", ("text", "label"), table)
    code, out, _ = neolm_("evaluate", classifier, "--input", test)
    assert code == 0
    assert "the labels of the model seem to be in another order" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label-column", "lable"), "there is no column 'lable'"),
        (("--second-column", "label"), "the model reads single texts: leave out --second-column"),
        (("--text", "story.txt"), "--text and --set are for language models"),
        (("--set", "seed=2"), "--text and --set are for language models"),
    ],
)
def test_what_cannot_be_measured(
    classifier: Path, tmp_path: Path, neolm_: Command, options: tuple[str, ...], message: str
) -> None:
    test = write_csv(tmp_path / "test.csv", ("text", "label"), rows(["a", "b", "c"]))
    code, _, err = neolm_("evaluate", classifier, "--input", test, *options)
    assert code == 2
    assert message in err


def test_a_model_that_does_not_classify(tmp_path: Path, neolm_: Command) -> None:
    save_model(tiny_encoder("bert", vocab_size=len(VOCABULARY)), tmp_path / "masked")
    (tmp_path / "masked" / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    test = write_csv(tmp_path / "test.csv", ("text", "label"), rows(["a"]))
    code, _, err = neolm_("evaluate", tmp_path / "masked", "--input", test)
    assert code == 2
    assert "it has neither labels nor answers to compare with a table" in err
