"""A fine-tuned model on a table: a classifier or regression by its labels, a model that writes by its answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from neolm.core.errors import InputError
from neolm.core.files import digest_file
from neolm.core.progress import say, table, task
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.evaluation.text_details import text_details
from neolm.evaluation.text_scores import example_values, softmax, text_scores
from neolm.metrics.answers import exact_match
from neolm.metrics.bleu import bleu, chrf
from neolm.metrics.calibration import top_label
from neolm.metrics.intervals import bootstrap_ratio
from neolm.metrics.rouge import rouge
from neolm.prediction.choose import Choose
from neolm.prediction.classify import Classify
from neolm.prediction.follow_instructions import FollowInstructions
from neolm.prediction.predict import load_predictor
from neolm.prediction.targets import Targets
from neolm.tables.choices import Choice, choice_columns, read_choices
from neolm.tables.examples import Examples, describe, read_examples
from neolm.tables.table import open_table

BATCH_SIZE = 64
T = TypeVar("T")


def evaluate_classifier(
    model: str,
    path: Path,
    text: str = "text",
    label: Sequence[str] = ("label",),
    second: str | None = None,
    quantize: str | None = None,
    ranks: RunRanks = ONE_RANK,
) -> dict[str, Any]:
    """Scores, their intervals and details, as JSON.

    Args:
        model: A model directory, a run or a hub id.
        path: A table.
        text: Column of the text.
        label: Column of the label or the answer; or several, each 0 or 1, for several labels.
        second: Column of the second text of a pair.
        quantize: Bits of the weights.
        ranks: The connected processes that share the rows; all of them call this.

    Raises:
        InputError: the model is not a classifier of texts, or no row can be used.
    """
    predictor = load_predictor(model, quantize=quantize)
    if isinstance(predictor, Choose):
        return _evaluate_choices(predictor, path, label[0], ranks)
    opened = open_table(path)
    if opened.guess:
        say(opened.guess)
    if isinstance(predictor, FollowInstructions):
        return _evaluate_answers(predictor, read_examples(opened, text, label[0]), ranks)
    if not isinstance(predictor, Classify):
        raise InputError(f"{model}: it has neither labels nor answers to compare with a table")
    if (second is not None) != predictor.settings.pair:
        reads = "pairs: give --second-column" if second is None else "single texts: leave out --second-column"
        raise InputError(f"{model}: the model reads {reads}")
    examples = read_examples(opened, text, label[0] if len(label) == 1 else label, second)
    for line in describe(examples.left_out):
        say(f"{path}: {line}")
    targets = Targets(predictor.problem, predictor.names)
    settings = predictor.settings
    others = [number for number, name in enumerate(examples.labels) if name == settings.abstain_label]
    if len(others) == len(examples):
        raise InputError(f"{path}: every row has the label {settings.abstain_label!r}, which stands for no label")
    outside = examples.select(others)
    examples = targets.known(examples.select(sorted({*range(len(examples))} - {*others})))
    gold = targets.tensor(examples.label_sets or examples.labels, str(path)).numpy()
    logits = _logits(predictor, examples, ranks)
    values = example_values(predictor.problem, logits, gold)
    interval = bootstrap_ratio(values, np.ones(len(values)))
    scores = text_scores(predictor.problem, predictor.names, logits, gold)
    if predictor.problem == "single_label_classification" and settings.abstain_below:
        best, right = top_label(softmax(logits), gold)
        scores["in_scope_accuracy"] = float((right * (best >= settings.abstain_below)).mean())
        if others:
            confidence = softmax(_logits(predictor, outside, ranks)).max(axis=1)
            scores["out_of_scope_recall"] = float((confidence < settings.abstain_below).mean())
    return {
        "protocol": {
            "data": {"path": str(path), "digest": digest_file(path), "examples": len(examples)},
            "prediction": settings.model_dump(mode="json", include={"temperature", "thresholds", "long_text"}),
        },
        "problem": predictor.problem,
        "scores": scores,
        "interval": interval.as_json(),
        "details": text_details(predictor.problem, predictor.names, logits, gold, examples, 1.0),
    }


def _evaluate_choices(predictor: Choose, path: Path, label: str, ranks: RunRanks) -> dict[str, Any]:
    """Scores of a model that chooses between options, which knows its columns; the other values are as above."""
    opened, settings = open_table(path), predictor.settings
    columns = choice_columns(opened, settings.text_column, settings.option_columns, settings.second_column)
    found = read_choices(opened, columns, label)
    for line in found.lines():
        say(line)
    answers = np.array([one.answer for one in found.choices])

    def choose(choices: Sequence[Choice]) -> NDArray[np.int64]:
        best: NDArray[np.int64] = predictor.question_logits(choices).argmax(axis=1)
        return best

    chosen = np.concatenate([one for _, one in ranks.map(choose, _parts(found.choices))])
    hits = (chosen == answers).astype(float)
    return {
        "protocol": {"data": {"path": str(path), "digest": digest_file(path), "examples": len(hits)}},
        "problem": "choice",
        "scores": {"accuracy": float(hits.mean())},
        "interval": bootstrap_ratio(hits, np.ones(len(hits))).as_json(),
        "details": {},
    }


def _evaluate_answers(predictor: FollowInstructions, examples: Examples, ranks: RunRanks) -> dict[str, Any]:
    """Scores of the answers that a model writes; the interval is that of the mean ROUGE-L. Other values as above."""
    for line in describe(examples.left_out):
        say(f"{examples.path}: {line}")

    def answers(part: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """What is written for each text that leaves room for it, and the right answer."""
        rows, right = [], []
        for text, answer in part:
            with contextlib.suppress(InputError):  # it leaves no room for an answer
                rows.append(predictor.encode(text))
                right.append(answer)
        return [(result["answer"], answer) for result, answer in zip(predictor.predict(rows), right, strict=True)]

    pairs: list[tuple[str, str]] = []
    with task("Answering", len(examples), "texts") as shown:
        for part, found in ranks.map(answers, _parts([*zip(examples.texts, examples.labels, strict=True)])):
            pairs += found
            shown.advance(len(part))
    if not pairs:
        raise InputError(f"{examples.path}: no text leaves room for an answer")
    written, texts = ([pair[side] for pair in pairs] for side in (0, 1))
    too_long = len(examples) - len(pairs)
    if too_long:
        say(
            f"{examples.path}: {too_long:,} of {len(examples):,} texts leave no room for an answer; they are not scored"
        )
    each = [rouge(*pair) for pair in pairs]
    means = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    same = float(np.mean([exact_match(*pair) for pair in pairs]))
    data = {"path": str(examples.path), "digest": digest_file(examples.path), "examples": len(texts)}
    settings = predictor.settings.model_dump(mode="json", include={"prompt", "max_new_tokens"})
    return {
        "protocol": {"data": data | {"too_long": too_long}, "prediction": settings},
        "problem": "instruct",
        "scores": {**means, "bleu": bleu(written, texts), "chrf": chrf(written, texts), "exact_match": same},
        "interval": bootstrap_ratio([one["rougeL"] for one in each], np.ones(len(each))).as_json(),
        "details": {},
    }


def classifier_table(found: dict[str, Any]) -> str:
    """The scores for a terminal."""
    low, high = found["interval"]["low"], found["interval"]["high"]
    rows: list[tuple[Any, ...]] = []
    for name, value in found["scores"].items():
        if isinstance(value, float):
            spread = f"({low:.4f} to {high:.4f})" if name in ("accuracy", "rougeL") and low is not None else ""
            rows.append((name.replace("_", " "), f"{value:.4f}", spread))
    if permuted := found["details"].get("permuted"):
        rows.append(("", permuted, ""))
    return table(rows)


def _logits(predictor: Classify, examples: Examples, ranks: RunRanks) -> Any:
    texts = list(examples.inputs())
    found = []

    def scores(part: Sequence[tuple[str, ...]]) -> NDArray[np.float32]:
        return predictor.scores([predictor.encode(*one) for one in part]).numpy()

    with task("Evaluating", len(texts), "examples") as shown:
        for part, logits in ranks.map(scores, _parts(texts)):
            found.append(logits)
            shown.advance(len(part))
    return np.concatenate(found)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items that are computed together."""
    return (items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE))
