"""The parts of a report that only encoders have: masked tokens, the sentence task, and when they were learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neolm.core.metrics import points
from neolm.report.chart import Bar, Line, Point, bar_chart, steady
from neolm.report.curves import large_figure, small_figure
from neolm.report.pages import Figure
from neolm.report.run_files import Run, optional_json
from neolm.report.scores import Score, read_score

MARGIN = 0.02  # of the trivial loss: a term counts as learnt when its loss is lower by more
SENTENCE_CHANCE = math.log(2)
TASKS = {
    "nsp": "next sentence prediction: whether the second segment is from another document",
    "sop": "sentence order prediction: whether two consecutive segments are swapped",
}


@dataclass(frozen=True)
class Learnt:
    """When the loss of a term first fell below that of a model that has learnt nothing of it."""

    term: str
    trivial: str
    """What the trivial loss is."""
    bound: float
    """The trivial loss less the margin."""
    step: int | None


@dataclass(frozen=True)
class EncoderReport:
    """What the report shows of an encoder's run."""

    run: Run

    @property
    def task(self) -> str:
        """`nsp` or `sop`; empty if there is no sentence task."""
        return str(self._pretrain("segments").get("task") or "none").replace("none", "")

    @property
    def task_meaning(self) -> str:
        """The sentence task in words."""
        return TASKS.get(self.task, "")

    def score(self, name: str) -> Score | None:
        """A score of the evaluation; None if it was not measured."""
        return read_score(self.run.scores, name)

    def protocol(self, name: str) -> Mapping[str, Any]:
        """The settings that a score was measured with."""
        entry = self.run.scores.get(name) or {}
        found: Mapping[str, Any] = (self.run.scores.get("protocols") or {}).get(entry.get("protocol")) or {}
        return found

    @property
    def bars(self) -> Figure | None:
        """The masked loss next to the losses of models that know less; None if it was not measured."""
        loss, unigram = self.score("masked_loss"), self.score("unigram_entropy")
        if loss is None:
            return None
        bars = [Bar("this model", loss.value, str(loss), loss.interval)]
        if unigram:
            bars.append(Bar("unigram entropy", unigram.value, str(unigram), unigram.interval, quiet=True))
        vocabulary = self.run.model_config.get("vocab_size")
        if isinstance(vocabulary, int):
            uniform = math.log(vocabulary)
            bars.append(Bar("uniform guess", uniform, f"{uniform:.2f}", quiet=True))
        confidence = self.protocol("masked_loss").get("confidence", 0.95)
        title = "Loss of masked tokens of held-out text in nats; less is better"
        caption = f"{title}. The whiskers are {confidence:.0%} confidence intervals."
        return Figure(lambda width: bar_chart(bars, title, width), caption)

    @property
    def loss(self) -> Figure | None:
        """The masked loss over the steps with the unigram entropy; None if nothing was logged."""
        training, validation = self._curves("masked_tokens", "loss")
        if not training:
            return None
        lines = [Line("training", training, smooth=True), Line("validation", validation, dots=True)]
        if entropy := self._trivial("masked_tokens"):
            lines.append(Line("unigram entropy", [(x, entropy) for x in _ends(training)]))
        return large_figure(lines, "masked loss, nats per token")

    @property
    def figures(self) -> list[Figure]:
        """Masked accuracy, and loss and accuracy of the sentence task, over the steps."""
        shown: list[tuple[str, str, str, float | None]] = [("masked_tokens", "accuracy", "masked accuracy", None)]
        if self.task:
            name = self.task.upper()
            shown += [("sentence", "loss", f"{name} loss, nats per pair", SENTENCE_CHANCE)]
            shown += [("sentence", "accuracy", f"{name} accuracy", 0.5)]
        figures = []
        for term, what, label, chance in shown:
            training, validation = self._curves(term, what)
            if training:
                lines = [Line("training", training, smooth=True), Line("validation", validation, dots=True)]
                lines += [Line("chance", [(x, chance) for x in _ends(training)])] if chance else []
                figures.append(small_figure(lines, label, _caption(validation, what, chance)))
        return figures

    @property
    def learnt(self) -> list[Learnt]:
        """The first step of each term below its trivial loss by the margin, of validations if there are any."""
        terms = [("masked_tokens", "masked tokens", "the unigram entropy")]
        terms += [("sentence", f"sentence task ({self.task.upper()})", "ln 2, that of guessing")] if self.task else []
        found = []
        for key, name, trivial in terms:
            bound = self._trivial(key)
            training, validation = self._curves(key, "loss")
            if not bound or not training:
                continue
            averages = steady([loss for _, loss in training])
            rows = validation or list(zip([x for x, _ in training], averages, strict=True))
            below = (step for step, loss in rows if loss < bound * (1 - MARGIN))
            step = next(below, None)
            found.append(
                Learnt(name, f"{trivial}: {bound:.3f} nats", bound * (1 - MARGIN), None if step is None else int(step))
            )
        return found

    @property
    def learnt_rows(self) -> list[tuple[Any, ...]]:
        """`learnt` as rows of a table."""
        return [
            ((term.term, f"trivial loss is {term.trivial}"), f"{term.bound:.3f}", _step(term.step))
            for term in self.learnt
        ]

    @property
    def examples(self) -> list[Mapping[str, Any]]:
        """Held-out sentences with masks and alternatives, as the evaluation wrote them."""
        return _rows(self.run, "evaluation", ("parts", "masks"))

    @property
    def audit(self) -> list[Mapping[str, Any]]:
        """The first examples of the training with their masks, as the training wrote them."""
        return _rows(self.run, "pretrain", ("tokens", "sentence_label"))

    @property
    def first_masked(self) -> str:
        """A text with a mask, for a command to try."""
        return next(("[MASK]".join(example["parts"]) for example in self.examples), "Paris is the [MASK] of France.")

    def _pretrain(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.run.config("pretrain").get("pretrain") or {}).get(name) or {}
        return found

    def _trivial(self, term: str) -> float | None:
        """The loss of a model that has learnt nothing but frequencies, or nothing at all."""
        entropy = self.run.counts("pretrain").get("unigram_entropy")
        known = entropy if isinstance(entropy, float) else None
        return known if term == "masked_tokens" else SENTENCE_CHANCE

    def _curves(self, term: str, what: str) -> tuple[list[Point], list[Point]]:
        """Training and validation values of a term; a training with one term logs it without its name."""
        named = f"{term}_{what}"
        key = named if any(named in row for row in self.run.metrics) or term != "masked_tokens" else what
        return points(self.run.metrics, key), points(self.run.metrics, f"validation_{key}")


def encoder_report(run: Run) -> EncoderReport | None:
    """What is shown of an encoder; None for a decoder."""
    measured = any(read_score(run.scores, name) for name in ("masked_loss", "sentence_accuracy"))
    return EncoderReport(run) if run.is_encoder or measured else None


def _rows(run: Run, stage: str, keys: Sequence[str]) -> list[Mapping[str, Any]]:
    """The rows of a stage's `examples.json` that have these keys."""
    written = optional_json(run.output / stage / "examples.json")
    rows = written if isinstance(written, list) else []
    return [row for row in rows if isinstance(row, dict) and all(key in row for key in keys)]


def _ends(line: Sequence[Point]) -> tuple[float, float]:
    """The first and the last x of a line."""
    return line[0][0], line[-1][0]


def _caption(validation: Sequence[Point], what: str, chance: float | None) -> str:
    if not validation:
        return ""
    value = validation[-1][1]
    last = f"{value:.1%}" if what == "accuracy" else f"{value:.3f}"
    guess = "" if chance is None else f"; guessing has {chance:.0%}" if what == "accuracy" else "; guessing has ln 2"
    return f"The last validation is {last}{guess}."


def _step(step: int | None) -> str:
    return "not yet" if step is None else f"{step:,}"
