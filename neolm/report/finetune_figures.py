"""Pictures of a fine-tuning: candidates, calibration, predicted numbers, losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neolm.core.metrics import points
from neolm.report.chart import Bar, Line, bar_chart
from neolm.report.curves import large_figure, small_figure
from neolm.report.diagonal import Spot, diagonal_chart
from neolm.report.finetune_results import FinetuneResults, examples_of, title, with_interval
from neolm.report.pages import HALF, Figure
from neolm.report.run_files import Run
from neolm.report.scores import read_score


@dataclass(frozen=True)
class FinetuneFigures:
    """The pictures of a run; None where it has nothing to draw."""

    run: Run
    results: FinetuneResults

    @property
    def candidates(self) -> Figure | None:
        """The main scores side by side."""
        scores = [(name, self.results.main_score(name)) for name in self.results.candidates]
        bars = [
            Bar(
                title(name),
                max(score.value, 0.0),
                with_interval(self.results.main, score),
                score.interval and (max(score.interval[0], 0.0), max(score.interval[1], 0.0)),
                quiet=name != self.results.recommended,
            )
            for name, score in scores
            if score is not None
        ]
        if not bars:
            return None
        if self.results.majority is not None:
            bars.append(Bar("most frequent label", self.results.majority, f"{self.results.majority:.1%}", quiet=True))
        heading = f"{self.results.label(self.results.main)} on the validation examples; more is better"
        negative = any(score is not None and min(score.value, *(score.interval or (0,))) < 0 for _, score in scores)
        note = " Values below 0 are drawn as 0." if negative else ""
        caption = f"{heading}. The whiskers are 95% confidence intervals.{note}"
        return Figure(lambda width: bar_chart(bars, heading, width), caption)

    @property
    def reliability(self) -> Figure | None:
        """Share of right answers by probability."""
        what = "share that has the label" if self.results.has_several else "share that is right"
        return reliability_figure(self.results.rows("reliability"), what)

    @property
    def scatter(self) -> Figure | None:
        """Gold and predicted numbers of a regression."""
        found = self.results.part("details").get("points")
        pairs = [p for p in found if isinstance(p, list) and len(p) == 2] if isinstance(found, list) else []
        if not pairs:
            return None
        spots = [Spot(gold, predicted, radius=3.0) for gold, predicted in pairs]
        caption = "Each dot is a validation example; on the dashed line the prediction is right."
        if len(pairs) < examples_of(self.run.counts("finetune"))[1]:
            caption += f" The first {len(pairs):,} are drawn."
        words = f"{len(pairs)} examples"

        def draw(width: int) -> str:
            return diagonal_chart(spots, "number in the table", "predicted", words, None, width)

        return Figure(draw, caption, HALF)

    @property
    def loss(self) -> Figure | None:
        """Loss of training and validation over the steps."""
        lines = [
            Line("training", points(self.run.metrics, "loss"), smooth=True),
            Line("validation", points(self.run.metrics, "validation_loss"), dots=True),
        ]
        lines = [line for line in lines if line.points]
        return large_figure(lines, "loss") if lines else None

    @property
    def curves(self) -> list[Figure]:
        """Validation accuracy and learning rate over the steps."""
        figures, accuracy = [], points(self.run.metrics, "validation_accuracy")
        if accuracy:
            training = Line("training", points(self.run.metrics, "accuracy"), smooth=True, raw=False)
            step, best = max(accuracy, key=lambda point: point[1])
            caption = f"The dots are those of the validation examples; the highest is {best:.1%}, at step {step:,.0f}."
            lines = [training, Line("validation", accuracy, dots=True)]
            figures.append(small_figure(lines, "accuracy", caption))
        if rates := points(self.run.metrics, "learning_rate"):
            caption = f"The maximum is {max(rate for _, rate in rates):g}."
            figures.append(small_figure([Line("learning rate", rates)], "learning rate", caption, zero_y=True))
        return figures


def reliability_figure(rows: Sequence[Mapping[str, Any]], what: str) -> Figure | None:
    """The rate of each range of probabilities, with intervals; None if there are none."""
    spots = []
    most = max((int(row.get("count") or 0) for row in rows), default=1)
    for row in rows:
        rate, count = read_score(row, "rate"), int(row.get("count") or 0)
        if rate is not None and isinstance(row.get("probability"), (int, float)):
            spots.append(Spot(row["probability"], rate.value, rate.interval, 3 + 4 * math.sqrt(count / most)))
    if not spots:
        return None
    caption = (
        "Each dot is a range of probabilities; large dots have many examples, and the whiskers are 95% confidence "
        f"intervals. On the dashed line, a probability is the {what}."
    )
    words = f"{len(spots)} ranges of probabilities"
    return Figure(lambda width: diagonal_chart(spots, "probability", what, words, (0, 1), width), caption, HALF)
