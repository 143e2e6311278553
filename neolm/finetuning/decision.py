"""What the validation examples say about how a classifier should decide: temperature, thresholds, abstention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from neolm.core.progress import say
from neolm.evaluation.text_scores import Floats, sigmoid, softmax
from neolm.finetuning.config import FinetuneConfig
from neolm.metrics.calibration import (
    expected_calibration_error,
    fit_sigmoid_temperature,
    fit_softmax_temperature,
    reliability_table,
    top_label,
)
from neolm.metrics.thresholds import abstention_threshold, best_f1_threshold, scope_threshold, threshold_at_precision
from neolm.models.label_config import Problem

NEVER = 2.0  # no probability reaches it, so that a label with this threshold is not predicted


def decide(
    problem: Problem, names: Sequence[str], logits: Floats, targets: NDArray[Any], config: FinetuneConfig
) -> dict[str, Any]:
    """The fields of `prediction.json` that are fitted, from logits (N, K) and targets of the validation examples."""
    if problem == "regression":
        return {}
    several = problem == "multi_label_classification"
    if several:
        temperature = fit_sigmoid_temperature(logits.ravel(), targets.ravel() > 0.5)
    else:
        temperature = fit_softmax_temperature(logits, targets)
    if not temperature.found:
        say("finetune: no temperature is fitted, because the validation examples have no best one; it stays 1")
    fitted: dict[str, Any] = {"temperature": temperature.value}
    if several:
        chances = sigmoid(logits / temperature.value)
        return {**fitted, "thresholds": _thresholds(names, chances, targets > 0.5, config.threshold_precision)}
    chances = softmax(logits / temperature.value)
    before, after = (
        expected_calibration_error(reliability_table(*top_label(softmax(logits / t), targets)))
        for t in (1.0, temperature.value)
    )
    say(f"finetune: temperature {temperature.value:.3f}; calibration error {before:.3f}, with it {after:.3f}")
    if config.abstain_error is not None:
        best, right = top_label(chances, targets)
        found = abstention_threshold(right, best, config.abstain_error)
        if found.confidence is None:
            say(
                f"finetune.abstain_error: no probability keeps an error rate of {config.abstain_error:g}; the lowest "
                f"that can be kept is {found.error:.3f}. The model always answers"
            )
        else:
            say(
                f"finetune: no answer below a probability of {found.confidence:.3f}: on the validation examples "
                f"{found.coverage:.1%} are answered, with an error rate of {found.error:.3f}"
            )
            fitted["abstain_below"] = found.confidence
    return fitted


def decide_scope(
    logits: Floats, targets: NDArray[Any], outside: Floats, prediction: Mapping[str, Any], config: FinetuneConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of `prediction.json` for texts that have none of the labels, and what they give.

    Args:
        logits: (N, K) of the validation examples.
        targets: (N,) their labels.
        outside: Logits (M, K) of examples without a label.
        prediction: What `decide` has fitted.
        config: The settings.
    """
    chances, others = (softmax(one / prediction["temperature"]) for one in (logits, outside))
    best, right = top_label(chances, targets)
    found = scope_threshold(right, best, others.max(axis=1))
    say(
        f"finetune: {config.out_of_scope_label!r} below a probability of {found.confidence:.3f}: of {len(others):,} "
        f"examples with this label {found.out_of_scope_recall:.1%} get it, and of the {len(best):,} validation "
        f"examples with another {found.in_scope_accuracy:.1%} get the right one (without it {right.mean():.1%})"
    )
    fitted = {"abstain_below": found.confidence, "abstain_label": config.out_of_scope_label}
    return fitted, {**asdict(found), "examples": len(others)}


def _thresholds(names: Sequence[str], chances: Floats, gold: NDArray[Any], precision: float | None) -> dict[str, float]:
    """The threshold of each label."""
    thresholds = {}
    for number, name in enumerate(names):
        of_label = gold[:, number], chances[:, number]
        found = best_f1_threshold(*of_label) if precision is None else threshold_at_precision(*of_label, precision)
        if found.value is None:
            reason = "no validation example has it"
            if gold[:, number].any():
                reason = f"its precision is at most {found.precision:.3f}, and {precision:g} is asked for"
            say(f"finetune: the label {name!r} is never predicted: {reason}")
        thresholds[name] = NEVER if found.value is None else found.value
    return thresholds
