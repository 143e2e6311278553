"""The section of scores: the model beside what compressors reach on the same held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neolm.core.chart import Bar, bar_chart
from neolm.evaluation.report.figure import figure, missing, paragraph, section
from neolm.evaluation.report.markup import Html, Node, element, table
from neolm.evaluation.report.run_files import Run


@dataclass(frozen=True)
class Score:
    """A measured value with its confidence interval, where there is one."""

    value: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"{self.value:.2f}"

    @property
    def spread(self) -> str:
        """`1.98 to 2.10`, or nothing."""
        return f"{self.interval[0]:.2f} to {self.interval[1]:.2f}" if self.interval else ""


# Key in scores.json, how it is called here, and what it is, the fairest comparison first.
BASELINES = (
    ("zstd_dictionary", "zstd with a dictionary", "the strongest zstd, given a dictionary cut from the training text"),
    ("xz", "xz -9e", "each document compressed alone, knowing nothing before it"),
    ("xz_together", "xz -9e, all at once", "all documents in one archive: not comparable, for interest"),
)


def model_score(scores: Mapping[str, Any]) -> Score | None:
    """The model's bits per byte."""
    return _score(scores.get("bits_per_byte"))


def baseline(scores: Mapping[str, Any], name: str) -> Score | None:
    """A compressor's bits per byte on the same text."""
    found = scores.get("baselines")
    return _score(found.get(name)) if isinstance(found, Mapping) else None


def _score(value: Any) -> Score | None:
    if isinstance(value, (int, float)):
        return Score(float(value))
    if not isinstance(value, Mapping) or not isinstance(value.get("value"), (int, float)):
        return None
    low, high = value.get("low"), value.get("high")
    known = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return Score(float(value["value"]), (float(low), float(high)) if known else None)  # type: ignore[arg-type]


def scores_section(run: Run) -> Html:
    """Bits per byte of the model and of compressors, with intervals, and what they mean."""
    own = model_score(run.scores)
    if own is None:
        nothing = run.counts("corpus") and not run.counts("corpus").get("validation", {}).get("documents")
        why = "there is no held-out text to measure on" if nothing else "the evaluation has not run"
        return section("scores", "Scores", missing(f"This run has no scores: {why}."))
    others = [(key, name, what, baseline(run.scores, key)) for key, name, what in BASELINES]
    rows: list[list[Node]] = [
        [_named("this model", "what it says of text that it has never seen"), str(own), own.spread]
    ]
    rows += [[_named(name, what), str(score), score.spread] for _, name, what, score in others if score]
    bars = [Bar("this model", own.value, str(own), own.interval)]
    bars += [
        Bar(name, score.value, str(score), score.interval, quiet=True)
        for key, name, _, score in others
        if score and key != "xz_together"
    ]
    return section(
        "scores",
        "Scores",
        paragraph(*_meaning(run)),
        figure(lambda width: bar_chart(bars, "Bits per byte on held-out text, less is better", width), CAPTION),
        table("Bits per byte on the held-out text", ["Method", "Bits per byte"], rows, numbers=[1]),
        paragraph(*_others(run)),
    )


CAPTION = "Bits per byte, less is better. The whiskers are 95% intervals, by bootstrap over the documents."


def _meaning(run: Run) -> list[Node]:
    return [
        "Bits per byte say how many bits it takes to write down a byte of new text when the model\u2019s predictions are "
        "used to compress it: 8 is no idea at all, and each bit less halves the number of likely next characters. "
        "Compressors are measured on the same documents, one at a time, so that the number means something; the "
        "dictionary was cut from the same text that the model was trained on, which makes it the fair rival, while "
        "xz starts each document knowing nothing.",
    ]


def _others(run: Run) -> list[Node]:
    return []


def _named(name: str, detail: str) -> Html:
    return element("span", name, element("span", detail, class_="detail"))
