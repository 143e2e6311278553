"""Zero-shot classification: the probabilities of labels that a model was not trained on.

A second model can first choose the `FEW` likeliest labels by embeddings; their probability is then divided among them
by the model itself. So an expensive model reads a text a few times, however many labels there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError, SettingError
from neolm.prediction.classify import described_labels
from neolm.prediction.decision_question import Option, Question, label_option
from neolm.prediction.option_scorer import OptionScorer, probabilities
from neolm.prediction.option_scores import LABEL, EncodedOptions
from neolm.tables.table import SUFFIXES, open_table

FEW = 10


class ZeroShot:
    """The likeliest of given labels, with the probabilities of all."""

    inputs: Sequence[str] = ("text",)
    columns: Sequence[str] = ("label", "probability")

    def __init__(
        self,
        scorer: OptionScorer,
        labels: Sequence[Option],
        template: str | None = None,
        shortlist: OptionScorer | None = None,
        top_k: int = 5,
    ) -> None:
        """`template` has `{label}` where an option is read; `shortlist` chooses the labels that `scorer` reads.

        Raises:
            InputError: there are fewer than two labels, or two are equal.
            SettingError: the template has no place for a label.
        """
        if template is not None and LABEL not in template:
            raise SettingError("template", f"{template!r} does not have {LABEL} in it")
        self._scorer, self._first, self._top_k = scorer, shortlist or scorer, top_k
        try:
            self._question = Question("choice", "", tuple(labels))
        except InputError as error:
            raise InputError(f"labels: {error}") from None
        self._template = template

    def _asked(self, scorer: OptionScorer) -> Question:
        return replace(self._question, template=self._template or scorer.encoder.template)

    def encode(self, text: str) -> tuple[str, EncodedOptions]:
        """The text, and what the first model has to read. Raises `InputError` if it is empty or too long."""
        return text, self._first.encoder.encode(text, [self._asked(self._first)])

    def predict(self, rows: Sequence[tuple[str, EncodedOptions]]) -> list[dict[str, Any]]:
        """The result of each row, as a classifier gives it."""
        first = self._asked(self._first)
        found = [
            probabilities(first, scores, self._first.settings)
            for [scores] in self._first.scores([encoded for _, encoded in rows])
        ]
        if self._first is not self._scorer:
            found = self._scored_again([text for text, _ in rows], found)
        return [self._result(chances) for chances in found]

    def _scored_again(self, texts: Sequence[str], found: Sequence[list[float]]) -> list[list[float]]:
        """The probabilities, with those of the likeliest labels of each text divided anew."""
        few = [sorted(range(len(of_text)), key=self._order(of_text))[:FEW] for of_text in found]
        questions = [
            replace(self._asked(self._scorer), options=tuple(self._question.options[n] for n in chosen))
            for chosen in few
        ]
        encoded = [self._scorer.encoder.encode(text, [one]) for text, one in zip(texts, questions, strict=True)]
        results = [[*of_text] for of_text in found]
        for result, chosen, one, [scores] in zip(results, few, questions, self._scorer.scores(encoded), strict=True):
            mass = sum(result[number] for number in chosen)
            again = probabilities(one, scores, self._scorer.settings)
            for number, chance in zip(chosen, again, strict=True):
                result[number] = mass * chance
        return results

    def _order(self, chances: Sequence[float]) -> Any:
        return lambda number: (-chances[number], str(self._question.options[number].value))

    def _result(self, chances: Sequence[float]) -> dict[str, Any]:
        order = sorted(range(len(chances)), key=self._order(chances))
        names = [str(option.value) for option in self._question.options]
        best = chances[order[0]]
        label = names[order[0]] if best >= self._scorer.settings.abstain_below else None
        return {"label": label, "probability": best, "probabilities": {names[n]: chances[n] for n in order}}

    def describe(self, result: Mapping[str, Any]) -> str:
        """A result for a terminal."""
        return described_labels(result, self._top_k)


def read_labels(given: str) -> list[Option]:
    """Labels that commas separate, or those of a file: a label a line, or a table with `label` and `description`.

    Raises:
        InputError: the file cannot be read, or a row has no label.
    """
    path = Path(given)
    if not path.is_file() and path.suffix not in SUFFIXES:
        return [label_option(label.strip()) for label in given.split(",")]
    table = open_table(path)
    column = "label" if "label" in table.columns else table.column("text")
    rows = [*table.rows()]
    described = "description" in table.columns
    return [
        label_option(row.text(column).strip(), (row.values.get("description") or None) if described else None)
        for row in rows
    ]
