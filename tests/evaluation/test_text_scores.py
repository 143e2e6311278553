"""Scores of classifiers and regressions of texts."""

import numpy as np
import pytest
from scipy.special import softmax as oracle_softmax

from neolm.evaluation.text_scores import softmax, text_scores

N = 400
TARGETS = np.arange(N) // 2 % 2


def test_scores_of_each_problem() -> None:
    wrong = np.arange(N) % 4 == 0
    logits = np.eye(2)[np.where(wrong, 1 - TARGETS, TARGETS)] * 3.0
    one = text_scores("single_label_classification", ["no", "yes"], logits, TARGETS)
    assert one["accuracy"] == 0.75
    assert not one["failed"]
    assert one["log_loss"] == pytest.approx(0.75 * np.log1p(np.exp(-3)) + 0.25 * np.log1p(np.exp(3)))
    assert one["f1"] == pytest.approx(0.8)  # 200 of 200 found, and 100 wrong ones
    several = text_scores(
        "multi_label_classification", ["p", "q"], np.array([[1.0, -1], [1, 1]]), np.array([[1, 0], [1, 0]])
    )
    assert several["exact_match"] == 0.5
    assert several["accuracy"] == 0.75
    assert several["auroc"] == {"p": None, "q": None}
    number = text_scores("regression", ["n"], np.array([[1.0], [2], [4]]), np.array([1.0, 2, 3]))
    assert number["spearman"] == pytest.approx(1.0)
    assert text_scores("single_label_classification", ["no", "yes"], np.ones((N, 2)) * [1, 0], TARGETS)["failed"]


def test_softmax_is_stable() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)) * 1e3
    np.testing.assert_allclose(softmax(logits), oracle_softmax(logits, axis=1), atol=1e-12)
