"""The section on how a training went: throughput, gradient norm, learning rate and memory."""

from __future__ import annotations

from statistics import median

from neolm.core.metrics import points
from neolm.core.progress import count
from neolm.report.chart import Line, Marks
from neolm.report.curves import GRADIENT_NORM, LEARNING_RATE, MEMORY, THROUGHPUT, Curve, charts, small_figure
from neolm.report.figure import missing, paragraph, plural, section
from neolm.report.markup import Html
from neolm.report.run_files import Run

TITLE = "Speed and stability"


def stability_section(run: Run) -> Html:
    """Four small curves over the steps, each with what it says in words; what was not logged is left out."""
    captions = {
        THROUGHPUT: _throughput(run),
        GRADIENT_NORM: _gradient_norm(run),
        LEARNING_RATE: _learning_rate(run),
        MEMORY: "The most that the training has held so far.",
    }
    drawn = [_figure(run, curve, caption) for curve, caption in captions.items() if curve.points(run.metrics)]
    if not drawn:
        return section("stability", TITLE, missing("No training step was logged."))
    return section("stability", TITLE, paragraph(MEANING), charts(*drawn))


MEANING = (
    "A healthy training keeps its speed, and its gradient norm settles. The faint lines are what was logged, the "
    "strong ones its average."
)


def _figure(run: Run, curve: Curve, caption: str) -> Html:
    line = Line(curve.label, curve.points(run.metrics), smooth=curve.smooth)
    skipped = Marks("skipped", [step for step, _ in _skipped(run)]) if curve is GRADIENT_NORM else None
    return small_figure([line], curve.label, caption, marks=skipped)


def _throughput(run: Run) -> str:
    speeds, shares = ([y for _, y in points(run.metrics, key)] for key in ("tokens_per_second", "mfu"))
    if not speeds:
        return ""
    share = f", {median(shares):.1%} of what this machine reaches in matrix products (MFU)" if shares else ""
    return f"The median is {count(median(speeds))}{share}."


def _gradient_norm(run: Run) -> str:
    clip = run.config("pretrain").get("pretrain", {}).get("gradient_clip")
    text = f"Before clipping (to {clip:g})." if clip else ""
    skipped = _skipped(run)
    if not skipped:
        return f"{text} No step was skipped.".strip()
    verb, place = ("was", "at the upright stroke") if len(skipped) == 1 else ("were", "at the upright strokes")
    step, reason = skipped[0]
    first = reason if len(skipped) == 1 else f"the first, step {step:,.0f}: {reason}"
    return f"{text} {plural(len(skipped), 'step')} {verb} skipped, {place} ({first}).".strip()


def _learning_rate(run: Run) -> str:
    rates = [rate for _, rate in points(run.metrics, "learning_rate")]
    return f"Its peak is {max(rates):g}." if rates else ""


def _skipped(run: Run) -> list[tuple[float, str]]:
    """`(step, reason)` of the steps whose gradient was not applied."""
    return [(row["step"], row["skipped"]) for row in run.metrics if isinstance(row.get("skipped"), str)]
