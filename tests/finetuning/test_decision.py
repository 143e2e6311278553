"""What is fitted on the validation examples, and the settings that decide what is read and how it counts."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_encoders import VOCABULARY, tiny_encoder
from topic_tables import write_csv

from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.decision import NEVER, decide
from neolm.finetuning.finetune_data import read_data
from neolm.finetuning.fit import Team
from neolm.finetuning.heads import head_config
from neolm.finetuning.run import FinetuneRun
from neolm.models.hf import save_model

SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"


def config(**settings: Any) -> FinetuneConfig:
    return FinetuneConfig(**{"task": "classification", "train": "t.csv", **settings})


def guesses(seed: int = 0, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two labels, and gold labels that the more probable one is right for as often as it says."""
    draw = np.random.default_rng(seed)
    margin = draw.normal(size=count) * 2
    gold = (draw.random(count) < 1 / (1 + np.exp(-margin))).astype(int)
    return np.stack([-margin / 2, margin / 2], axis=1), gold


def test_the_temperature_undoes_a_factor_of_the_logits(capsys: pytest.CaptureFixture[str]) -> None:
    logits, gold = guesses()
    plain, sharp = (decide(SINGLE, ["a", "b"], logits * factor, gold, config())["temperature"] for factor in (1.0, 5.0))
    assert plain == pytest.approx(1.0, abs=0.2)
    assert sharp == pytest.approx(5 * plain, rel=1e-3)
    assert "calibration error" in capsys.readouterr().err


def test_abstention_keeps_the_error_rate() -> None:
    logits, gold = guesses()
    assert "abstain_below" not in decide(SINGLE, ["a", "b"], logits, gold, config())
    found = decide(SINGLE, ["a", "b"], logits, gold, config(abstain_error=0.1))
    chances = np.exp(logits / found["temperature"])
    chances /= chances.sum(1, keepdims=True)
    answered = chances.max(1) >= found["abstain_below"] - 1e-12
    wrong = chances.argmax(1) != gold
    assert wrong.mean() > 0.1 >= wrong[answered].mean()
    assert answered.mean() > 0.3


def test_an_error_rate_that_cannot_be_kept_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    logits, gold = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([1, 0, 1])
    assert "abstain_below" not in decide(SINGLE, ["a", "b"], logits, gold, config(abstain_error=0.01))
    assert "no probability keeps an error rate of 0.01" in capsys.readouterr().err


def test_thresholds_at_a_precision(capsys: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(1)
    gold = draw.random((300, 2)) < [0.3, 0.5]
    logits = np.where(gold, 1.0, -1.0) * [1.0, -1.0] + draw.normal(size=(300, 2)) * [1.0, 0.1]
    found = decide(SEVERAL, ["good", "wrong"], logits, gold.astype(float), config(threshold_precision=0.9))
    chances = 1 / (1 + np.exp(-logits / found["temperature"]))
    predicted = chances[:, 0] >= found["thresholds"]["good"]
    assert gold[predicted, 0].mean() >= 0.9
    assert found["thresholds"]["wrong"] == NEVER
    assert "the label 'wrong' is never predicted: its precision is at most" in capsys.readouterr().err
    best = decide(SEVERAL, ["good", "wrong"], logits, gold.astype(float), config())
    assert best["thresholds"]["good"] < found["thresholds"]["good"]


def test_numbers_have_nothing_to_fit() -> None:
    assert decide("regression", ["n"], np.zeros((3, 1)), np.zeros(3), config(task="regression")) == {}


def table(folder: Path) -> Path:
    rows = [(f"the sea {n}", "coast", n % 7) for n in range(40)] + [(f"the day {n}", "time", n % 7) for n in range(10)]
    return write_csv(folder / "t.csv", ("text", "label", "author"), rows)


def test_a_group_is_not_divided(tmp_path: Path) -> None:
    path = str(table(tmp_path))
    data = read_data(config(train=path, group_column="author", validation_share=0.3), 1)
    assert data.training.groups is not None
    assert data.validation.groups is not None
    assert not {*data.training.groups} & {*data.validation.groups}
    divided = read_data(config(train=path, validation_share=0.3), 1)
    authors = [{line % 7 for line in part.lines} for part in (divided.training, divided.validation)]
    assert authors[0] & authors[1]


def test_balanced_weights_give_each_label_the_same_sum(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_model(tiny_encoder("bert", vocab_size=len(VOCABULARY)), base)
    (base / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    for choice in ("none", "balanced"):
        settings = config(train=str(table(tmp_path)), class_weights=choice)
        data = read_data(settings, 1)
        architecture = head_config(tiny_encoder("bert", vocab_size=len(VOCABULARY)).config, data.targets, "mean")
        training = FinetuneRun(tmp_path / "run", base, architecture, data, settings, 1, Team()).training
        sums = [float(training.weights[training.targets == label].sum()) for label in (0, 1)]
        assert float(training.weights.mean()) == pytest.approx(1)
        assert (sums[0] == pytest.approx(sums[1])) == (choice == "balanced")


def test_resampling_repeats_the_rare_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tmp_path / "base"
    save_model(tiny_encoder("bert", vocab_size=len(VOCABULARY)), base)
    (base / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    settings = config(train=str(table(tmp_path)), class_weights="resample")
    data = read_data(settings, 1)
    architecture = head_config(tiny_encoder("bert", vocab_size=len(VOCABULARY)).config, data.targets, "mean")
    run = FinetuneRun(tmp_path / "run", base, architecture, data, settings, 1, Team())
    counts = Counter(run.training.targets[number].item() for number, _ in run.training.windows)
    once = Counter(run.training.targets.tolist())
    assert once == {0: 36, 1: 9}
    assert counts == {0: 36, 1: 36}
    assert "an epoch has each example of 'time' 4 times" in capsys.readouterr().err
    assert len(run.validation.windows) == len(run.validation.texts)
    weights = run.training.linear_weights()
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[run.training.targets == 1][0] / weights[run.training.targets == 0][0]) == pytest.approx(4)
    assert run.lengths["train"]["windows"] == 45
