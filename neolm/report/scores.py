"""Scores of a run as the pages show them: the model and, on the same held-out text, compressors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neolm.core.compressors import COMPRESSORS
from neolm.core.progress import count
from neolm.report.chart import Bar, bar_chart
from neolm.report.pages import Figure
from neolm.report.run_files import Run

LABELS = {
    "bits_per_byte": "Bits per byte",
    "loss": "Loss, nats per token",
    "token_perplexity": "Perplexity per token",
    "word_perplexity": "Perplexity per word",
    "masked_loss": "Masked loss, nats per token",
    "masked_accuracy": "Masked accuracy",
    "unigram_entropy": "Unigram entropy of the same tokens, nats",
    "masked_gain": "Gain over the unigram entropy, nats",
    "sentence_accuracy": "Accuracy of the sentence task",
    "pseudo_perplexity": "Pseudo-perplexity per token",
}
PERCENT = ("masked_accuracy", "sentence_accuracy")


@dataclass(frozen=True)
class Score:
    """A measured value with its confidence interval, if there is one."""

    value: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"{self.value:.2f}"

    @property
    def spread(self) -> str:
        """`1.98 to 2.10`, or `no interval`."""
        return f"{self.interval[0]:.2f} to {self.interval[1]:.2f}" if self.interval else "no interval"


def read_score(scores: Any, name: str) -> Score | None:
    """The score under `name` in scores.json or in the baselines of one of its entries; None if there is none."""
    entry = scores.get(name) if isinstance(scores, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(entry.get("value"), (int, float)):
        return None
    low, high = entry.get("low"), entry.get("high")
    interval = (low, high) if isinstance(low, (int, float)) and isinstance(high, (int, float)) else None
    return Score(entry["value"], interval)


@dataclass(frozen=True)
class BitsPerByte:
    """Bits per byte of the model and of the compressors that were run on the same text."""

    run: Run
    model: Score
    compressors: Mapping[str, Score]

    @property
    def baselines(self) -> Mapping[str, Any]:
        """The compressors' part of scores.json."""
        return self.run.scores["bits_per_byte"].get("baselines") or {}

    def against(self, name: str) -> tuple[str, float] | None:
        """`fewer`, `more` or `about as many` bits than a compressor, by the interval of the difference; the share."""
        if name not in self.compressors:
            return None
        share = self.model.value / self.compressors[name].value - 1
        difference = read_score(self.baselines[name], "difference")
        if difference and difference.interval and difference.interval[0] <= 0 <= difference.interval[1]:
            return "about as many", share
        return "more" if share > 0 else "fewer", share

    @property
    def dictionary_mib(self) -> float:
        """Size of zstd's dictionary in MiB; 0 without one."""
        found = self.baselines.get("zstd_dictionary") or {}
        return float(found.get("dictionary_bytes") or 0) / 2**20

    @property
    def figure(self) -> Figure:
        """Bars of the model and of the compressors that are comparable with it."""
        bars = [Bar("this model", self.model.value, str(self.model), self.model.interval)]
        bars += [
            Bar(COMPRESSORS[name][0], score.value, str(score), score.interval, quiet=True)
            for name, score in self.compressors.items()
            if name != "xz_together"
        ]
        confidence = self.run.protocol.get("confidence", 0.95)
        title = "Bits per byte of held-out text; fewer are better"
        caption = f"{title}. The whiskers are {confidence:.0%} confidence intervals."
        return Figure(lambda width: bar_chart(bars, title, width), caption)

    @property
    def rows(self) -> list[list[tuple[str, str]]]:
        """A row per method for the table: name and explanation, value and interval."""
        rows = [[("this model", "with its trained weights"), (str(self.model), self.model.spread)]]
        return rows + [[COMPRESSORS[name], (str(score), score.spread)] for name, score in self.compressors.items()]


def bits_per_byte(run: Run) -> BitsPerByte | None:
    """The scores of the model and of the compressors; None if the run has no scores."""
    own = read_score(run.scores, "bits_per_byte")
    if own is None:
        return None
    baselines = run.scores["bits_per_byte"].get("baselines")
    found = {name: read_score(baselines, name) for name in COMPRESSORS}
    return BitsPerByte(run, own, {name: score for name, score in found.items() if score})


def labels(scores: Mapping[str, Any]) -> dict[str, str]:
    """The label of each score, bits per byte first; scores without a label have their name and unit."""
    names = sorted((name for name in scores if read_score(scores, name)), key=lambda name: name != "bits_per_byte")
    return {
        name: LABELS.get(name) or f"{name.replace('_', ' ').capitalize()}, {scores[name].get('unit', '')}".strip(", ")
        for name in names
    }


def with_interval(scores: Any, name: str) -> str:
    """`2.900 (2.800 to 3.000)`, accuracies in percent; empty if there is no such score."""
    score = read_score(scores, name)
    if score is None:
        return ""
    form = "{:.1%}".format if name in PERCENT else shown
    interval = f" ({form(score.interval[0])} to {form(score.interval[1])})" if score.interval else ""
    return form(score.value) + interval


def shown(value: float) -> str:
    """`2.900`, `129.8`, `62.1k`."""
    if value < 1e4:
        return f"{value:.3f}" if value < 10 else f"{value:.4g}"
    return count(value) if value < 1e15 else f"{value:.1e}"
