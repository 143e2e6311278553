"""Scores of classifiers and regressions of texts, from their logits.

Shapes: N examples, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neolm.metrics.calibration import expected_calibration_error, reliability_table, top_label
from neolm.metrics.classification import classification_scores, confusion_matrix, has_failed, label_counts
from neolm.metrics.counts import multilabel_counts
from neolm.metrics.ranking import auroc, average_precision
from neolm.metrics.regression import regression_scores
from neolm.models.label_config import Problem

Floats = NDArray[np.float64]

MAIN = {"single_label_classification": "accuracy", "multi_label_classification": "macro_f1", "regression": "spearman"}
"""The score by which a candidate is judged first."""


def example_values(problem: Problem, logits: Floats, targets: NDArray[Any]) -> Floats:
    """What is compared, of each example, (N,)."""
    if problem == "regression":
        found = -((logits[:, 0] - targets) ** 2)
    elif problem == "single_label_classification":
        found = logits.argmax(axis=1) == targets
    else:
        found = ((logits > 0) == (targets > 0.5)).mean(axis=1)
    return np.asarray(found, np.float64)


def main_score(problem: Problem, logits: Floats, targets: NDArray[Any]) -> float | None:
    """The score by which a candidate is judged first, `MAIN`; None where it is undefined."""
    if problem == "regression":
        return regression_scores(targets, logits[:, 0]).spearman
    if problem == "single_label_classification":
        return float((logits.argmax(axis=1) == targets).mean())
    return float(multilabel_counts(targets > 0.5, logits > 0).macro().f1)


def text_scores(problem: Problem, names: Sequence[str], logits: Floats, targets: NDArray[Any]) -> dict[str, Any]:
    """The scores of one candidate, as JSON."""
    if problem == "regression":
        return {**asdict(regression_scores(targets, logits[:, 0])), "failed": float(np.ptp(logits)) == 0}
    if problem == "multi_label_classification":
        return _several_labels(names, logits, targets)
    matrix = confusion_matrix(targets, logits.argmax(axis=1), len(names))
    found: dict[str, Any] = classification_scores(matrix)
    chances = softmax(logits)
    found["log_loss"] = float(-np.log(np.maximum(chances[np.arange(len(targets)), targets], 1e-30)).mean())
    found["calibration_error"] = expected_calibration_error(reliability_table(*top_label(chances, targets)))
    found["failed"] = has_failed(matrix)
    if len(names) == 2:
        margin = logits[:, 1] - logits[:, 0]
        found["f1"] = float(label_counts(matrix).by_label().f1[1])
        found["auroc"], found["average_precision"] = (
            auroc(targets == 1, margin),
            average_precision(targets == 1, margin),
        )
    return found


def _several_labels(names: Sequence[str], logits: Floats, targets: NDArray[Any]) -> dict[str, Any]:
    predicted, gold = logits > 0, targets > 0.5
    counts = multilabel_counts(gold, predicted)
    areas = {name: auroc(gold[:, number], logits[:, number]) for number, name in enumerate(names)}
    defined = [area for area in areas.values() if area is not None]
    return {
        "accuracy": float((predicted == gold).mean()),
        "exact_match": float((predicted == gold).all(axis=1).mean()),
        "macro_f1": float(counts.macro().f1),
        "micro_f1": float(counts.micro().f1),
        "mean_auroc": float(np.mean(defined)) if defined else None,
        "auroc": areas,
        "failed": bool((predicted == predicted[0]).all()),
    }


def sigmoid(logits: Floats) -> Floats:
    """Probabilities of the same shape, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), np.float64)


def softmax(logits: Floats) -> Floats:
    """Probabilities (N, K)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float64)
