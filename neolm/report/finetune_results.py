"""`finetune/results.json` of a fine-tuning: candidates with scores and differences, as the page and the card show them.

Results of an older version, or of another task, have fewer keys; what is missing is None or empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from neolm.report.run_files import optional_json
from neolm.report.scores import Score, read_score

CANDIDATES = {
    "tfidf": ("TF-IDF", "a linear model on TF-IDF features of words and characters; no neural network"),
    "probe": ("probe", "a linear model on what the frozen neural network gives"),
    "fine-tuned": ("fine-tuned", "the neural network is trained"),
    "no-answer": ("no answer", "gives no answer to any question"),
    "lookup": ("lookup", "gives each word the tag that it had most often"),
    "place": ("most frequent place", "takes the place that is most often right"),
    "overlap": ("overlap", "takes the option that shares most words with the context, weighted by TF-IDF"),
    "base": ("base", "the model before the fine-tuning"),
}
PERCENT = frozenset({"accuracy", "balanced_accuracy", "exact_match", "majority_rate", "token_accuracy"})
LABELS = {
    "accuracy": "Accuracy",
    "exact_match": "All labels right",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "micro_f1": "Micro F1",
    "weighted_f1": "Weighted F1",
    "f1": "F1",
    "matthews": "Matthews correlation",
    "auroc": "AUROC",
    "mean_auroc": "Mean AUROC",
    "average_precision": "Average precision",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "mean_squared_error": "Mean squared error",
    "mean_absolute_error": "Mean absolute error",
    "log_loss": "Log loss",
    "calibration_error": "Calibration error",
    "token_accuracy": "Answer tokens that are the likeliest",
    "loss": "Loss of an answer token",
    "perplexity": "Perplexity of answers",
}

Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Difference:
    """A candidate less the recommended one, on the same examples."""

    name: str
    score: Score
    """Points of the share of right answers; for a regression, the squared error, where less is better."""
    verdict: Verdict
    points: bool

    def __str__(self) -> str:
        """`+1.0 points (-3.0 to +5.1)`."""
        values = [self.score.value, *(self.score.interval or ())]
        first, *ends = [f"{100 * v:+.1f}" if self.points else f"{v:+.3g}" for v in values]
        words = f"{first}{' points' if self.points else ''}".replace("-", "\u2212")
        return f"{words} ({' to '.join(ends)})".replace("-", "\u2212") if ends else words


@dataclass(frozen=True)
class FinetuneResults:
    """The results of a fine-tuning; empty for a run that is not finished."""

    values: Mapping[str, Any]

    def part(self, *keys: str) -> Mapping[str, Any]:
        """A mapping inside of the results; empty if there is none."""
        found: Any = self.values
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def rows(self, name: str) -> list[Mapping[str, Any]]:
        """A list of the details; empty if there is none."""
        found = self.part("details").get(name)
        return [row for row in found if isinstance(row, Mapping)] if isinstance(found, list) else []

    @property
    def problem(self) -> str:
        """`single_label_classification`, `multi_label_classification` or `regression`."""
        return str(self.values.get("problem", ""))

    @property
    def is_regression(self) -> bool:
        """Whether the model gives a number."""
        return self.problem == "regression"

    @property
    def has_several(self) -> bool:
        """Whether a text has any number of labels."""
        return self.problem == "multi_label_classification"

    @property
    def names(self) -> list[str]:
        """The labels; none of a regression."""
        found = self.values.get("names")
        return [] if self.is_regression or not isinstance(found, list) else [str(name) for name in found]

    @property
    def candidates(self) -> list[str]:
        """In the order of their cost."""
        return [name for name, scores in self.part("scores").items() if isinstance(scores, Mapping)]

    @property
    def recommended(self) -> str:
        """The cheapest candidate that no other beats."""
        return str(self.part("comparison").get("recommended") or self.model or (self.candidates or [""])[0])

    @property
    def model(self) -> str:
        """The candidate that became the model."""
        return str(self.values.get("model") or "")

    @property
    def is_compared(self) -> bool:
        """Whether the candidates were compared with paired intervals, as classifiers and regressions are."""
        return bool(self.part("comparison"))

    @property
    def main(self) -> str:
        """The score by which a candidate is judged first."""
        return str(self.values.get("main") or "accuracy")

    def main_score(self, name: str) -> Score | None:
        """The main score of a candidate, with its interval where it is known."""
        measured = self.part("intervals")
        if self.main == "accuracy" and not measured:  # of accuracies, the mean value that is compared is the score
            measured = self.part("comparison", "values")
        found = read_score(measured, name)
        if not measured and name == self.model:
            found = read_score(self.values, "interval")
        value = self.part("scores", name).get(self.main)
        return found or (Score(float(value)) if isinstance(value, (int, float)) else None)

    @cached_property
    def differences(self) -> list[Difference]:
        """Every other candidate, less the recommended one."""
        found = []
        for name in self.candidates:
            score = read_score(self.part("comparison", "differences"), name)
            if score is None:
                continue
            low, high = score.interval or (0.0, 0.0)
            verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
            if self.is_regression:  # the values are squared errors with a minus sign
                score = Score(-score.value, (-high, -low) if score.interval else None)
            found.append(Difference(name, score, verdict, not self.is_regression))
        return found

    @property
    def majority(self) -> float | None:
        """The share of the examples with the most frequent label."""
        found = self.part("scores", self.recommended).get("majority_rate")
        return float(found) if isinstance(found, (int, float)) else None

    @property
    def nothing_learnt(self) -> bool:
        """Whether no candidate is clearly better than an answer that does not depend on the text."""
        bound = self.majority if self.problem == "single_label_classification" else 0.0
        scores = {name: self.main_score(name) for name in self.candidates}
        failed = [bool(self.part("scores", name).get("failed")) for name in self.candidates]
        if not self.is_compared and len(self.candidates) > 1:  # a baseline, and the model
            bound = max((one.value for name, one in scores.items() if one and name != self.model), default=None)
            scores, failed = {self.model: scores.get(self.model)}, [False]
        if bound is None or self.has_several or not all(scores.values()):
            return bool(failed) and all(failed)
        return all(
            has_failed or (score.interval[0] if score.interval else score.value) <= bound
            for score, has_failed in zip(filter(None, scores.values()), failed, strict=True)
        )

    @property
    def calibration_error(self) -> tuple[float | None, float | None]:
        """Before the temperature and with it."""
        stored = self.part("details", "calibration_error")
        return _number(stored.get("before")), _number(stored.get("after"))

    def score_table(self) -> list[tuple[str, ...]]:
        """A row for each score, with a cell for each candidate."""
        scores = {name: self.part("scores", name) for name in self.candidates}
        rows = []
        for key in LABELS:
            values = [_number(found.get(key)) for found in scores.values()]
            if any(value is not None for value in values):
                rows.append((self.label(key), *(written(key, value) for value in values)))
        return rows

    def label(self, key: str) -> str:
        """A score in words."""
        if key == "accuracy" and self.has_several:
            return "Labels that are right"
        if key == "exact_match" and not self.has_several:
            return "Exact match"
        if key == "f1" and len(self.names) == 2:
            return f"F1 of {self.names[1]}"
        return LABELS.get(key, key.replace("_", " ").capitalize())


def read_results(directory: Path) -> FinetuneResults:
    """The results in the directory `finetune/` of a run; empty if there are none."""
    found = optional_json(directory / "results.json")
    return FinetuneResults(found if isinstance(found, dict) else {})


def written(key: str, value: float | None) -> str:
    """A score: `85.9%`, `0.639`; a dash if it is undefined."""
    if value is None:
        return "\u2013"
    form = f"{value:.1%}" if key in PERCENT else f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
    return form.replace("-", "\u2212")


def with_interval(key: str, score: Score | None) -> str:
    """`85.9% (78.8% to 92.9%)`."""
    if score is None:
        return "\u2013"
    ends = f" ({written(key, score.interval[0])} to {written(key, score.interval[1])})" if score.interval else ""
    return written(key, score.value) + ends


def title(name: str) -> str:
    """The name of a candidate."""
    return CANDIDATES.get(name, (name, ""))[0]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def examples_of(counts: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of training and validation examples, from the counts of the manifest; 0 if they are not known."""
    found = counts.get("examples")
    found = found if isinstance(found, Mapping) else {}
    return int(found.get("train") or 0), int(found.get("validation") or 0)
