"""The classifiers of a policy, and what they say about texts.

A long text is read in windows, whatever the classifier does elsewhere, and is judged by the worst of them: if the
windows were averaged, harmless text around a harmful part would hide it.

Shapes: W windows of a text, K outputs of a classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neolm.core.errors import InputError, NonFiniteError, shortened
from neolm.core.files import digest_file, digest_json, digest_path
from neolm.models.hf import model_directory, open_model
from neolm.moderation.policy import ACTIONS, Action, Category, Side, read_policy
from neolm.prediction.classify import Classify
from neolm.prediction.predict import load_predictor
from neolm.prediction.text_windows import EncodedText, whole, window_starts

Encoded = Mapping[str, EncodedText]
"""A text as each model reads it."""


@dataclass(frozen=True)
class Score:
    """The probability of a category in each window of a text."""

    values: Sequence[float]

    @property
    def value(self) -> float:
        """The highest, which decides."""
        return max(self.values)

    @property
    def place(self) -> str:
        """The window that decides, counted from 1, and their number; nothing if the text was read whole."""
        number = len(self.values)
        return f"{1 + self.values.index(self.value)} of {number}" if number > 1 else ""


Scores = Mapping[str, Score]
"""The score of each category."""


def highest(scores: Sequence[Scores]) -> Scores:
    """Of several texts that are judged as one, the highest score of each category; there is at least one text."""
    return {name: max((one[name] for one in scores), key=lambda score: score.value) for name in scores[0]}


class Moderator:
    """A policy with its classifiers. It is a predictor of `neolm.prediction`: rows in, `columns` out."""

    inputs: Sequence[str] = ("text",)
    columns: Sequence[str] = ("action", "categories", "scores", "windows")

    def __init__(
        self,
        path: str | Path,
        device: str | None = None,
        dtype: str | None = None,
        quantize: str | None = None,
        side: Side = "prompt",
    ) -> None:
        """Read the policy, load its classifiers and judge its canaries.

        `side` is what `predict` takes texts for; the others are as in `load_predictor`.

        Raises:
            InputError: the policy or a model cannot be used, or a canary fails.
        """
        self.path, self.policy, self.side = Path(path), read_policy(Path(path)), side
        places = self.policy.models_in(self.path.parent)
        window = self.policy.window_tokens
        reading = {"long_text": "windows"} | ({} if window is None else {"window_tokens": window})
        self.classifiers: dict[str, Classify] = {}
        for name, place in places.items():
            try:
                self.classifiers[name] = _classifier(place, device, dtype, quantize, reading)
            except InputError as error:
                raise InputError(f"{path}: models.{name}: {error}") from None
        weights = {name: digest_path(model_directory(place)) for name, place in places.items()}
        self.digest = digest_json({"policy": digest_file(self.path), "models": weights})
        """SHA-256 of the policy file and of the files of its models."""
        self.thresholds = {name: self._threshold(name, one) for name, one in self.policy.categories.items()}
        self._check_canaries()

    def encode(self, text: str) -> Encoded:
        """The text as each model reads it. Raises `InputError` if it is empty."""
        return {name: classifier.encode(text) for name, classifier in self.classifiers.items()}

    def judge(self, logits: Mapping[str, Tensor]) -> Scores:
        """The score of each category from the logits (W, K) of a text's windows by model.

        Raises:
            NonFiniteError: a logit is not finite.
        """
        if not all(bool(one.isfinite().all()) for one in logits.values()):
            raise NonFiniteError(f"{self.path}: a logit of a classifier is not finite; its weights are damaged")
        found = {}
        for name, category in self.policy.categories.items():
            classifier = self.classifiers[category.model]
            columns = [classifier.names.index(label) for label in category.labels]
            chances = classifier.chances(logits[category.model].double())[:, columns]
            values = chances.sum(dim=1).clamp(max=1) if _one_label(classifier) else chances.amax(dim=1)
            found[name] = Score(values.tolist())
        return found

    def scores(self, rows: Sequence[Encoded]) -> list[Scores]:
        """The scores of each text. Raises `NonFiniteError`."""
        parts = {
            name: torch.split(
                classifier.window_logits([window for row in rows for window in row[name].inputs]),
                [len(row[name].windows) for row in rows],
            )
            for name, classifier in self.classifiers.items()
        }
        return [self.judge({name: parts[name][number] for name in parts}) for number in range(len(rows))]

    def window_places(self, text: str, model: str) -> list[tuple[int, int]]:
        """The first character of each window of a text, and the one after its last."""
        classifier = self.classifiers[model]
        _, places = classifier.tokenizer.encode_offsets(text)
        room = classifier.length - len(whole(classifier.tokenizer, [])[0])
        windows = (places[start : start + room] for start in window_starts(len(places), room))
        return [(window[0][0], window[-1][1]) for window in windows]

    def actions(self, scores: Scores, side: Side) -> dict[str, Action]:
        """What the policy does with a text, for each category that it is in, whatever the mode."""
        categories = self.policy.categories.items()
        return {name: getattr(one, side) for name, one in categories if scores[name].value >= self.thresholds[name]}

    def predict(self, rows: Sequence[Encoded]) -> list[dict[str, Any]]:
        """The strictest action, the categories that a text is in, the scores, and the windows that decided."""
        return [self._result(scores) for scores in self.scores(rows)]

    def _result(self, scores: Scores) -> dict[str, Any]:
        actions = self.actions(scores, self.side)
        return {
            "action": strictest(actions),
            "categories": [*actions],
            "scores": {name: score.value for name, score in scores.items()},
            "windows": {name: score.place for name, score in scores.items() if score.place},
        }

    def describe(self, result: dict[str, Any]) -> str:
        """A result for a terminal: the action, and each score with its threshold and window."""
        lines = [result["action"]]
        for name, value in result["scores"].items():
            window = f", window {result['windows'][name]}" if name in result["windows"] else ""
            sign = ">=" if name in result["categories"] else "<"
            lines.append(f"  {name} {value:.3f} {sign} {self.thresholds[name]:g}{window}")
        return "\n".join(lines)

    def _threshold(self, name: str, category: Category) -> float:
        classifier, where = self.classifiers[category.model], f"{self.path}: categories.{name}"
        for label in category.labels:
            if label not in classifier.names:
                known = ", ".join(classifier.names)
                raise InputError(f"{where}.labels: the model {category.model!r} has no label {label!r}, only {known}")
        if category.threshold is not None:
            return category.threshold
        stored = (
            {0.5}
            if _one_label(classifier)
            else {classifier.settings.thresholds.get(one, 0.5) for one in category.labels}
        )
        if len(stored) > 1 or max(stored) > 1:
            why = "the labels have different ones" if len(stored) > 1 else "it never predicts this label"
            raise InputError(f"{where}.threshold: give one, for the model {category.model!r} stores none: {why}")
        return stored.pop()

    def _check_canaries(self) -> None:
        canaries = self.policy.canaries
        try:
            found = self.scores([self.encode(canary.text) for canary in canaries]) if canaries else []
        except InputError as error:
            raise InputError(f"{self.path}: canaries: {error}") from None
        failing = []
        for canary, scores in zip(canaries, found, strict=True):
            value, threshold = scores[canary.category].value, self.thresholds[canary.category]
            if (value >= threshold) != canary.expected:
                wanted = "at least" if canary.expected else "below"
                failing.append(
                    f"{shortened(canary.text, 60)}: {canary.category} is {value:.3f}, expected {wanted} {threshold:g}"
                )
        if failing:
            problem = f"{len(failing)} of {len(canaries)} canaries fail, so the policy is not used"
            raise InputError("\n  ".join([f"{self.path}: {problem}:", *failing]))


def strictest(actions: Mapping[str, Action]) -> Action:
    """The strictest of the actions of a text's categories; a text that is in none is allowed."""
    return max(actions.values(), key=ACTIONS.index, default="allow")


def _one_label(classifier: Classify) -> bool:
    return classifier.problem == "single_label_classification"


def _classifier(
    place: str, device: str | None, dtype: str | None, quantize: str | None, reading: Mapping[str, Any]
) -> Classify:
    head = open_model(place, device).config.head
    if head != "sequence":
        raise InputError(f"{place}: the head '{head}' gives no labels of texts; neolm finetune trains a classifier")
    found = load_predictor(place, device, dtype, quantize, settings=reading)
    assert isinstance(found, Classify)
    if found.problem == "regression" or found.settings.pair:
        kind = "gives a number instead of labels" if found.problem == "regression" else "reads pairs of texts"
        raise InputError(f"{place}: the model {kind}; a classifier of single texts is needed")
    return found
