"""What a person looks at of a classifier, against scikit-learn and hand-computed cases."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from neolm.evaluation.text_details import text_details
from neolm.evaluation.text_scores import MAIN, main_score, text_scores
from neolm.tables.examples import Examples

NAMES = ("a", "b", "c")


def examples(count: int) -> Examples:
    return Examples(Path("t.csv"), [f"text {n}" for n in range(count)], ["a"] * count, list(range(2, count + 2)))


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    logits, targets = draw.normal(size=(50, 3)), draw.integers(0, 2, (50, 3)).astype(float)
    found = text_details("multi_label_classification", NAMES, logits, targets, examples(50), 2.0)
    expected = precision_recall_fscore_support(targets, logits > 0, average=None)
    for number, row in enumerate(found["labels"]):
        values = [row[key] for key in ("precision", "recall", "f1", "examples")]
        assert values == pytest.approx([score[number] for score in expected])


def test_the_calibration_error_is_that_without_and_with_the_temperature() -> None:
    logits = np.array([[np.log(9.0), 0.0]] * 10)  # probability 0.9, of which 5 of 10 are right
    targets = np.arange(10) % 2
    found = text_details("single_label_classification", NAMES[:2], logits, targets, examples(10), 1e9)
    assert found["calibration_error"] == pytest.approx({"before": 0.4, "after": 0.0}, abs=1e-6)
    margins = np.array([[np.log(9.0), -np.log(9.0)]] * 10)
    targets = np.array([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5)
    found = text_details("multi_label_classification", NAMES[:2], margins, targets, examples(10), 1e9)
    assert found["calibration_error"] == pytest.approx({"before": 0.4, "after": 0.0}, abs=1e-6)


@pytest.mark.parametrize("problem", MAIN)
def test_the_main_score_is_one_of_the_scores(problem: str) -> None:
    draw = np.random.default_rng(2)
    logits = draw.normal(size=(40, 1 if problem == "regression" else 3))
    targets = {
        "single_label_classification": draw.integers(0, 3, 40),
        "multi_label_classification": draw.integers(0, 2, (40, 3)).astype(float),
        "regression": draw.normal(size=40),
    }[problem]
    scores = text_scores(problem, NAMES, logits, targets)  # type: ignore[arg-type]
    assert main_score(problem, logits, targets) == pytest.approx(scores[MAIN[problem]])  # type: ignore[arg-type,index]
