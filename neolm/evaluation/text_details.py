"""What a person looks at of a classifier: labels, confusions, calibration, the worst mistakes, doubtful labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neolm.evaluation.text_scores import Floats, sigmoid, softmax
from neolm.metrics.calibration import ReliabilityBin, expected_calibration_error, reliability_table, top_label
from neolm.metrics.classification import confusion_matrix, label_counts
from neolm.metrics.counts import PrecisionRecall, multilabel_counts
from neolm.metrics.mistakes import suspected_label_errors, worst_mistakes
from neolm.metrics.relabelling import suspected_relabelling
from neolm.models.label_config import Problem
from neolm.tables.examples import Examples

EXAMPLES = 20
CONFUSIONS = 20
MAX_MATRIX = 12  # labels of a confusion matrix that is kept whole
MAX_CHARACTERS = 600  # of a text in the results


def text_details(
    problem: Problem,
    names: Sequence[str],
    logits: Floats,
    targets: NDArray[Any],
    examples: Examples,
    temperature: float,
) -> dict[str, Any]:
    """The details of one candidate on the validation examples, as JSON.

    Args:
        problem: What the outputs are.
        names: Names of the K outputs.
        logits: (N, K), or (N, 1) numbers.
        targets: Ids (N,), 0 and 1 (N, K), or numbers (N,).
        examples: The N examples.
        temperature: Of the probabilities.
    """
    if problem == "regression":
        errors = logits[:, 0] - targets
        worst = np.argsort(-np.abs(errors), kind="stable")[:EXAMPLES]
        shown = [{**_example(examples, row), "predicted": float(logits[row, 0])} for row in worst]
        points = [[float(a), float(b)] for a, b in zip(targets, logits[:, 0], strict=True)][:2000]
        return {"mistakes": shown, "points": points}
    if problem == "multi_label_classification":
        return _several(names, logits, targets > 0.5, examples, temperature)
    chances, predicted = softmax(logits / temperature), logits.argmax(axis=1)
    matrix = confusion_matrix(targets, predicted, len(names))
    scores = label_counts(matrix).by_label()
    order = np.argsort(-(matrix - np.diag(np.diag(matrix))).ravel(), kind="stable")[:CONFUSIONS]
    pairs = [(int(place // len(names)), int(place % len(names))) for place in order]
    before, after = (reliability_table(*top_label(values, targets)) for values in (softmax(logits), chances))
    doubts = suspected_label_errors(chances, targets)
    permuted = suspected_relabelling(matrix)
    return {
        "labels": _label_rows(names, matrix.sum(axis=1), scores),
        "matrix": matrix.tolist() if len(names) <= MAX_MATRIX else None,
        "confusions": [
            {"gold": names[a], "predicted": names[b], "count": int(matrix[a, b])}
            for a, b in pairs
            if a != b and matrix[a, b]
        ],
        "reliability": [_bin(one) for one in after],
        "calibration_error": _errors(before, after),
        "mistakes": [
            {
                **_example(examples, row),
                "predicted": names[predicted[row]],
                "probability": float(chances[row, predicted[row]]),
            }
            for row in worst_mistakes(chances, targets, EXAMPLES)
        ],
        "doubtful_labels": [
            {**_example(examples, row), "suggested": names[other], "probability": float(chances[row, other])}
            for row, other in zip(doubts.indices[:EXAMPLES], doubts.suggested[:EXAMPLES], strict=True)
        ],
        "permuted": None if permuted is None else permuted.describe(names),
    }


def _several(
    names: Sequence[str], logits: Floats, gold: NDArray[np.bool_], examples: Examples, temperature: float
) -> dict[str, Any]:
    """Details of several labels: the most confident wrong answers over all labels."""
    chances = sigmoid(logits / temperature)
    scores = multilabel_counts(gold, logits > 0).by_label()
    before, after = (reliability_table(values.ravel(), gold.ravel()) for values in (sigmoid(logits), chances))
    wrong = np.where(gold, 1 - chances, chances)  # (N, K) probability of what is not so
    order = np.argsort(-wrong.ravel(), kind="stable")[:EXAMPLES]
    rows = [(int(place // len(names)), int(place % len(names))) for place in order]
    return {
        "mistakes": [
            {
                **_example(examples, row),
                "predicted": f"{'not ' if gold[row, label] else ''}{names[label]}",
                "probability": float(wrong[row, label]),
            }
            for row, label in rows
            if wrong[row, label] > 0.5
        ],
        "reliability": [_bin(one) for one in after],
        "calibration_error": _errors(before, after),
        "labels": _label_rows(names, gold.sum(axis=0), scores),
    }


def _label_rows(names: Sequence[str], totals: NDArray[Any], scores: PrecisionRecall) -> list[dict[str, Any]]:
    """Examples and scores of each label."""
    return [
        {"name": name, "examples": int(total), "precision": float(p), "recall": float(r), "f1": float(f)}
        for name, total, p, r, f in zip(names, totals, scores.precision, scores.recall, scores.f1, strict=True)
    ]


def _errors(before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin]) -> dict[str, float]:
    """The calibration error without and with the temperature."""
    return {"before": expected_calibration_error(before), "after": expected_calibration_error(after)}


def _example(examples: Examples, row: int) -> dict[str, Any]:
    texts = [texts for texts in (examples.texts, examples.seconds) if texts is not None]
    return {
        "line": examples.lines[row],
        "texts": [shortened_text(text[row]) for text in texts],
        "gold": examples.labels[row],
    }


def shortened_text(text: str) -> str:
    """The first characters of a long text."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ..."


def _bin(one: Any) -> dict[str, Any]:
    return {**asdict(one), "rate": one.rate.as_json()}
