"""The page of a fine-tuning: which candidate is recommended and why, its mistakes, and how to use the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neolm.core.progress import duration
from neolm.report.finetune_examples import Shown
from neolm.report.finetune_results import (
    CANDIDATES,
    FinetuneResults,
    examples_of,
    read_results,
    title,
    with_interval,
    written,
)
from neolm.report.finetune_tables import FinetuneTables
from neolm.report.finetune_usage import FinetuneUsage
from neolm.report.run_files import Run
from neolm.report.scores import Score
from neolm.report.sizes import Pairs

FEW = 100  # validation examples
Row = tuple[str, ...]


@dataclass(frozen=True)
class FinetuneReport:
    """What the page shows of a fine-tuning."""

    run: Run
    results: FinetuneResults

    @property
    def settings(self) -> Mapping[str, Any]:
        """The section `finetune` of the recipe."""
        found: Mapping[str, Any] = self.run.config("finetune").get("finetune") or {}
        return found

    @property
    def tables(self) -> FinetuneTables:
        """What is in the tables."""
        return FinetuneTables(self.results, self.settings)

    @property
    def usage(self) -> FinetuneUsage:
        """Commands and code that use the model."""
        return FinetuneUsage(self.run.output, self.settings, self.results)

    @property
    def examples(self) -> tuple[int, int]:
        """Numbers of training and validation examples."""
        return examples_of(self.run.counts("finetune"))

    @property
    def score(self) -> Score | None:
        """The main score of the recommended candidate."""
        return self.results.main_score(self.results.recommended)

    @property
    def headline(self) -> str:
        """Which candidate is recommended, in plain words."""
        results, recommended = self.results, self.results.recommended
        others = [name for name in results.candidates if name != recommended]
        if not results.candidates:
            return "A fine-tuning that is not finished"
        if results.nothing_learnt:
            return f"No candidate is clearly better than {self._constant}"
        if not results.is_compared and others:
            return f"The {title(recommended)} model is better than a simple baseline"
        if not others:
            return f"The {title(recommended)} was the only candidate"
        if recommended == "tfidf":
            return "You do not need a neural network here: nothing beats a linear model on TF-IDF features"
        if recommended == "probe" and "fine-tuned" in others:
            return "The probe is enough: training the whole model was not measurably better"
        if recommended == "probe":
            return "Use the probe: it beats the linear model on TF-IDF features"
        return "Train the whole model: the fine-tuned one beats the cheaper candidates"

    @property
    def _constant(self) -> str:
        """An answer that does not depend on the text."""
        if self.results.problem == "single_label_classification":
            return "always giving the most frequent label"
        if self.results.problem in ("instruct", "choice"):
            return "the base as it is" if self.results.problem == "instruct" else "a simple baseline"
        if not self.results.is_compared:
            return "a baseline that reads no context"
        return "giving the same answer to every text"

    @property
    def reasons(self) -> list[str]:
        """Sentences with the score of the recommended candidate, the differences, and what is in `model/`."""
        results, number = self.results, self.examples[1]
        if not results.candidates:
            return []
        name = title(results.recommended)
        measured = f"the {number:,} validation examples" if number else "the validation examples"
        value = with_interval(results.main, self.score)
        cheapest = ", the cheapest that no other beats," if len(results.differences) else ""
        if results.main == "accuracy":
            right = "takes the right option for" if results.problem == "choice" else "gives the right label to"
            first = f"The {name} model{cheapest} {right} {value} of {measured}."
        else:
            score = results.label(results.main).replace("Macro", "macro")
            first = (
                f"The {name} model{cheapest} has {'an' if score[0] in 'AEF' else 'a'} {score} of {value} on {measured}."
            )
        if results.majority is not None:
            first += f" Always giving the most frequent label is right for {results.majority:.1%}."
        lines = [first, *self._compared()]
        lines += self._seeds() + self._search()
        if results.recommended == "tfidf" and not (results.nothing_learnt or self.tables.several):
            lines.append("The code of the TF-IDF model is under “How to use it”.")
        if 0 < number < FEW:
            lines.append("With so few validation examples, only large differences can be told from chance.")
        return [*lines, self._written()]

    @property
    def score_value(self) -> str:
        """The main score of the recommended candidate."""
        return written(self.results.main, self.score.value if self.score else None)

    @property
    def score_remark(self) -> str:
        """Whose score it is, with its interval."""
        interval = self.score.interval if self.score else None
        ends = " to ".join(written(self.results.main, end) for end in interval or ())
        return f"{title(self.results.recommended)}{', ' if ends else ''}{ends}"

    @property
    def time_remark(self) -> str:
        """The part of the time that is the training of all weights."""
        seconds = self.run.counts("finetune").get("training_seconds")
        return f"{duration(seconds)} of it training all weights" if seconds else ""

    @property
    def candidate_names(self) -> list[str]:
        """The candidates in the order of their cost."""
        return [title(name) for name in self.results.candidates]

    @property
    def chosen(self) -> str:
        """The candidate that became the model."""
        return title(self.results.model)

    def _compared(self) -> list[str]:
        words = {"worse": "is worse", "better": "is better", "not distinguishable": "is not measurably better"}
        measure = "in squared error" if self.results.is_regression else "in right labels"
        return [
            f"The {title(one.name)} model {words[one.verdict]}: {one} {measure}." for one in self.results.differences
        ]

    def _seeds(self) -> list[str]:
        """The spread over several seeds."""
        spread, main = self.results.part("seeds"), self.results.main
        if not spread:
            return []
        median, low, high = (written(main, spread.get(key)) for key in ("median", "lowest", "highest"))
        failed = f"{spread.get('failed')} of them failed" if spread.get("failed") else "none failed"
        return [
            f"Over {spread.get('runs')} seeds, the fine-tuned one has a median of {median} ({low} to {high}); {failed}."
        ]

    def _search(self) -> list[str]:
        """The settings that a search has chosen."""
        found = self.results.part("search")
        if not found:
            return []
        chosen = ", ".join(f"{name} {value:g}" for name, value in found["chosen"].items())
        return [
            f"The settings of the fine-tuned one ({chosen}) are the best of {len(found['tried'])} combinations on the "
            "same validation examples, so that its score is too good."
        ]

    def _written(self) -> str:
        """What is in `model/`, and why it may be another candidate than the recommended one."""
        results = self.results
        if "model" not in self.run.manifests:
            return "No model has been written yet."
        written = f"The model in model/ is the {title(results.model)} one"
        if results.recommended == results.model:
            return f"{written}."
        if results.recommended == "tfidf":
            return f"{written}, the best of those that NeoLM can use."
        if results.model == "fine-tuned":
            return f"{written}: it is better by more than a standard error, though not beyond doubt."
        return f"{written}: the others that NeoLM can use are not clearly better."

    @property
    def difference_rows(self) -> list[tuple[Any, ...]]:
        """Each candidate with its meaning, its time, and its difference from the recommended one."""
        differences = {one.name: one for one in self.results.differences}
        rows: list[tuple[Any, ...]] = []
        for name in self.results.candidates:
            seconds = self.results.part("seconds").get(name)
            took = duration(seconds) if isinstance(seconds, (int, float)) else ""
            one = differences.get(name)
            recommended = name == self.results.recommended
            verdict = "recommended" if recommended else one.verdict if one else ""
            rows.append((CANDIDATES.get(name, (name, "")), (verdict, str(one) if one else ""), took))
        return rows

    def label_rows(self) -> list[Row]:
        """Name, examples, precision, recall and F1 of each label, the worst first; those not measured last."""
        thresholds, found = self.results.part("prediction", "thresholds"), self.results.rows("labels")
        in_table = {} if self.results.has_several else self.tables.labels
        ordered = sorted(found, key=lambda row: (not row.get("examples"), row.get("f1") or 0, -row.get("examples", 0)))
        rows = []
        for row in ordered:
            name, tested = str(row.get("name")), int(row.get("examples") or 0)
            scores = [row.get(key) for key in ("precision", "recall", "f1")]
            cells = [f"{s:.2f}" if isinstance(s, (int, float)) and tested else "\u2013" for s in scores]
            numbers = [f"{in_table.get(name, 0):,}"] if in_table else []
            rows.append((name, *numbers, f"{tested:,}", *cells, *_threshold(thresholds, name)))
        return rows

    @property
    def label_headers(self) -> list[str]:
        """The headers of `label_rows`."""
        numbers = [] if self.results.has_several or not self.tables.labels else ["In table"]
        limit = ["Threshold"] if self.results.part("prediction", "thresholds") else []
        return ["Label", *numbers, "Tested", "Precision", "Recall", "F1", *limit]

    @property
    def matrix(self) -> list[tuple[str, list[tuple[int, float]]]]:
        """Rows of gold labels: counts of the predicted labels, each with its share of the row."""
        found = self.results.part("details").get("matrix")
        if not isinstance(found, list) or len(found) != len(self.results.names):
            return []
        totals = [max(1, sum(row)) for row in found]
        return [
            (name, [(count, count / total) for count in row])
            for name, row, total in zip(self.results.names, found, totals, strict=True)
        ]

    @property
    def confusion_rows(self) -> list[Row]:
        """Gold label, predicted label and number, the most frequent first."""
        keys = ("gold", "predicted", "count")
        return [tuple(str(row.get(key)) for key in keys) for row in self.results.rows("confusions")]

    @property
    def calibration_facts(self) -> Pairs:
        """Temperature, calibration error before and after it, abstention."""
        prediction, (before, after) = self.results.part("prediction"), self.results.calibration_error
        limit, temperature = prediction.get("abstain_below"), prediction.get("temperature")
        return [
            ("Temperature", f"{temperature:.3f}" if isinstance(temperature, (int, float)) else ""),
            ("Calibration error before", "" if before is None else f"{before:.3f}"),
            ("Calibration error with it", "" if after is None else f"{after:.3f}"),
            ("No answer below", f"a probability of {limit:.3f}" if limit else ""),
        ]

    @cached_property
    def mistakes(self) -> list[Shown]:
        """The wrong answers with the highest probability, or the largest errors."""
        return [Shown.from_row(row, "predicted") for row in self.results.rows("mistakes")]

    @cached_property
    def doubts(self) -> list[Shown]:
        """Examples whose label is suspected to be wrong."""
        return [Shown.from_row(row, "suggested") for row in self.results.rows("doubtful_labels")]

    @property
    def training_facts(self) -> Pairs:
        """Settings and totals of the training of all weights."""
        counts, settings = self.run.counts("finetune"), self.settings
        steps, batch = counts.get("steps") or 0, counts.get("batch_size") or settings.get("batch_size") or 0
        windows = self.results.part("lengths", "train").get("windows") or self.examples[0]
        kept = f"{counts['best_step']:,}, the best validation" if counts.get("best_step") else ""
        return [
            ("Steps", f"{steps:,} of {batch:,} examples, {steps * batch / windows:.1f} epochs" if windows else ""),
            ("Step of the weights", kept),
            ("Learning rate", f"{settings['learning_rate']:g} at its maximum" if "learning_rate" in settings else ""),
            ("Time", duration(float(counts.get("training_seconds") or 0))),
        ]

    @property
    def base(self) -> str:
        """Name of the model that was fine-tuned."""
        manifest = self.run.manifests.get("finetune")
        given = manifest.inputs.get("base") if manifest else None
        return Path(given.path).name if given else ""


def finetune_report(run: Run) -> FinetuneReport:
    """What is shown of a fine-tuning."""
    return FinetuneReport(run, read_results(run.output / "finetune"))


def _threshold(thresholds: Mapping[str, Any], name: str) -> list[str]:
    if not thresholds:
        return []
    found = thresholds.get(name, 0.5)
    return ["never given" if found >= 1 else f"{found:.3f}"]
