"""The section of scores: the model beside what compressors reach on the same held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neolm.core.chart import Bar, bar_chart
from neolm.evaluation.report.figure import figure, missing, paragraph, section
from neolm.evaluation.report.markup import Html, Node, element, table, together
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
        return f"{self.interval[0]:.2f} to {self.interval[1]:.2f}" if self.interval else "no interval"


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
        return section("scores", "Scores", missing(f"This run has no scores: {_why_none(run)}."))
    others = [(name, what, score) for key, name, what in BASELINES if (score := baseline(run.scores, key))]
    rows = [_row("this model", "reading each document from its start, as training left it", own)]
    rows += [_row(name, what, score) for name, what, score in others]
    bars = [Bar("this model", own.value, str(own), own.interval)]
    bars += [Bar(name, score.value, str(score), score.interval, quiet=True) for name, _, score in others]
    title = "Bits per byte on held-out text, less is better"
    return section(
        "scores",
        "Scores",
        paragraph(MEANING),
        paragraph(RIVALS) if others else None,
        paragraph(*_verdict(run, own)),
        figure(lambda width: bar_chart(bars, title, width), CAPTION),
        table(title, ["Method", "Bits per byte"], rows, numbers=[1]),
    )


MEANING = (
    "Bits per byte: how many bits it takes, on average, to write down one byte of text that the model has never seen, "
    "if its predictions are used to compress that text. 8 would be no idea at all, and each bit less halves the number "
    "of continuations it hesitates between."
)
RIVALS = (
    "The compressors get the same documents, one at a time. xz starts each of them knowing nothing, so it is easy to "
    "beat; the dictionary was cut from the very text that the model was trained on, so it is the fair rival, and where "
    "held-out text repeats training text word for word, it is a strong one."
)
CAPTION = "Bits per byte, less is better. The whiskers are 95% intervals, by bootstrap over the documents."


def _why_none(run: Run) -> str:
    validation = run.counts("corpus").get("validation")
    return "no text was held out to measure on" if validation == NO_DOCUMENTS else "it has not been evaluated"


NO_DOCUMENTS = {"documents": 0, "bytes": 0}


def _verdict(run: Run, own: Score) -> list[Node]:
    """How the model compares, in words."""
    parts = []
    for name, text in (("xz", "xz"), ("zstd_dictionary", "zstd with the dictionary")):
        other = baseline(run.scores, name)
        if other is not None:
            change = own.value / other.value - 1
            parts.append(f"{abs(change):.0%} {'more' if change > 0 else 'fewer'} bits than {text}")
    return [f"This model needs {' and '.join(parts)}."] if parts else []


def _row(name: str, detail: str, score: Score) -> list[Node]:
    named = together([name, element("span", detail, class_="detail")])
    return [named, together([str(score), element("span", score.spread, class_="detail")])]
