"""The section of scores: the model beside what compressors reach on the same held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neolm.core.progress import count
from neolm.report.bars import Bar, bar_chart
from neolm.report.figure import data_size, figure, missing, paragraph, section
from neolm.report.markup import Html, Node, element, pairs, table, together
from neolm.report.run_files import Run


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


ABOUT = "about as many"

# Key in scores.json, how it is called here, and what it is: the fairest comparison first.
BASELINES = (
    ("zstd_dictionary", "zstd with a dictionary", "zstd -19, starting from a dictionary cut from the training text"),
    ("xz", "xz, each alone", "xz -9e, starting each document from nothing"),
)
TOGETHER = ("xz_together", "xz, all at once", "xz -9e over all documents in one archive: for interest, not comparable")


def model_score(scores: Mapping[str, Any]) -> Score | None:
    """The model's bits per byte."""
    return _score(scores.get("bits_per_byte"))


def baseline(scores: Mapping[str, Any], name: str) -> Score | None:
    """A compressor's bits per byte on the same text."""
    own = scores.get("bits_per_byte")
    found = own.get("baselines") if isinstance(own, Mapping) else None
    return _score(found.get(name)) if isinstance(found, Mapping) else None


def against(scores: Mapping[str, Any], name: str) -> tuple[str, float] | None:
    """`fewer`, `more` or `about as many` bits than a compressor, by the interval of the difference; and the share."""
    own, other = model_score(scores), baseline(scores, name)
    if own is None or other is None:
        return None
    share = own.value / other.value - 1
    difference = _score(scores["bits_per_byte"]["baselines"][name].get("difference"))
    if difference and difference.interval and difference.interval[0] <= 0 <= difference.interval[1]:
        return ABOUT, share
    return "more" if share > 0 else "fewer", share


def _score(value: Any) -> Score | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("value"), (int, float)):
        return None
    low, high = value.get("low"), value.get("high")
    interval = (low, high) if isinstance(low, (int, float)) and isinstance(high, (int, float)) else None
    return Score(value["value"], interval)


def scores_section(run: Run) -> Html:
    """Bits per byte of the model and of compressors, with intervals, and what they mean."""
    own = model_score(run.scores)
    if own is None:
        return section("scores", "Scores", missing(f"This run has no scores: {_why_none(run)}."))
    others = [(name, what, score) for key, name, what in BASELINES if (score := baseline(run.scores, key))]
    bars = [Bar("this model", own.value, str(own), own.interval)]
    bars += [Bar(name, score.value, str(score), score.interval, quiet=True) for name, _, score in others]
    together_score = baseline(run.scores, TOGETHER[0])
    if together_score:
        others.append((*TOGETHER[1:], together_score))
    rows = [_row("this model", "starting from what training left in it", own)]
    rows += [_row(name, what, score) for name, what, score in others]
    confidence = run.protocol.get("confidence", 0.95)
    title = "Bits per byte on held-out text, less is better"
    return section(
        "scores",
        "Scores",
        paragraph(MEANING),
        paragraph(_rivals(run)) if others else None,
        figure(lambda width: bar_chart(bars, title, width), f"{title}. The whiskers are {confidence:.0%} intervals."),
        paragraph(*_verdict(run)),
        table(title, ["Method", "Bits per byte"], rows, numbers=[1]),
        pairs(_further(run)),
    )


MEANING = (
    "Bits per byte: how many bits it takes, on average, to write down one byte of text that the model has never seen, "
    "if its predictions are used to compress that text. 8 would be no idea at all, and each bit less halves the number "
    "of continuations it hesitates between."
)


def _why_none(run: Run) -> str:
    validation = run.counts("corpus").get("validation") or {}
    return "no text was held out to measure on" if validation.get("documents") == 0 else "it has not been evaluated"


def _rivals(run: Run) -> str:
    found = run.scores["bits_per_byte"]["baselines"].get("zstd_dictionary") or {}
    size = found.get("dictionary_bytes")
    dictionary = f"a dictionary of {size / 2**20:.2g} MiB" if size else "a dictionary"
    text = (
        "Compressors do the same work, so they make a yardstick: each gets the same documents, one at a time. "
        "xz starts every document knowing nothing. "
    )
    if not found:
        return text
    return (
        f"{text}zstd starts from {dictionary}, cut from the very text that the model was trained on: whole phrases "
        "that it can point to. That makes it the fairer rival. The sizes of the dictionary and of the model are not "
        "counted, and a larger dictionary would do better still."
    )


def _verdict(run: Run) -> list[Node]:
    """How the model compares, in words."""
    parts = []
    for name, text in (("xz", "xz"), ("zstd_dictionary", "zstd with its dictionary")):
        found = against(run.scores, name)
        if found:
            word, share = found
            parts.append(f"{word} bits as {text}" if word == ABOUT else f"{abs(share):.0%} {word} bits than {text}")
    return ["This model needs ", element("strong", " and ".join(parts)), "."] if parts else []


def _further(run: Run) -> list[tuple[str, Node]]:
    """The other measures, and what was measured how."""
    scores, settings = run.scores, run.protocol
    data, available = settings.get("data") or {}, (settings.get("available") or {}).get("documents")
    of = f" of the {available:,} held out" if available else ""
    amount = f"{data['documents']:,}{of}, {data_size(data['bytes'])}" if data.get("documents") else ""
    how = f"{settings['window']:,} tokens, moved by {settings['stride']:,}" if settings.get("stride") else ""
    return [
        ("Loss, nats per token", _with_interval(scores.get("loss"))),
        ("Perplexity per token", _with_interval(scores.get("token_perplexity"))),
        ("Perplexity per word", _with_interval(scores.get("word_perplexity"))),
        ("Documents measured", amount),
        ("Window", how),
        ("Intervals", "by bootstrap over the documents"),
    ]


def _with_interval(value: Any) -> Node:
    score = _score(value)
    if score is None:
        return None
    shown = [
        f"{x:.4g}" if x < 1e4 else count(x) if x < 1e15 else f"{x:.1e}" for x in (score.value, *(score.interval or ()))
    ]
    return shown[0] + (f" ({shown[1]} to {shown[2]})" if score.interval else "")


def _row(name: str, detail: str, score: Score) -> list[Node]:
    named = together([name, element("span", detail, class_="detail")])
    return [named, together([str(score), element("span", score.spread, class_="detail")])]
