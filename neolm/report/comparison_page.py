"""The page that draws several runs together; one file that needs nothing but itself, like a report."""

from __future__ import annotations

from collections.abc import Sequence

from neolm.core.metrics import points
from neolm.report.chart import Line, Point, line_chart
from neolm.report.curves import GRADIENT_NORM, LEARNING_RATE, MEMORY, THROUGHPUT, Curve, charts, small_figure
from neolm.report.differing import caution, differing_settings
from neolm.report.document import document
from neolm.report.figure import figure, missing, paragraph, section
from neolm.report.markup import Html, Node, element, table, together
from neolm.report.measures import MEASURES, Measure
from neolm.report.svg import swatch
from neolm.report.training_run import TrainingRun

Runs = Sequence[TrainingRun]

MINUTES, HOURS = 60.0, 3600.0  # in seconds


def comparison_page(runs: Runs) -> str:
    """The whole page."""
    warning = caution(runs)
    head = element(
        "header",
        element("p", "NeoLM comparison", class_="kicker"),
        element("h1", f"{len(runs)} runs side by side"),
        element("p", _standfirst(runs), class_="standfirst"),
        element("p", warning, class_="missing") if warning else None,
    )
    main = element("main", _numbers(runs), _losses(runs), _stability(runs), _settings(runs))
    title = f"Comparison of {', '.join(run.name for run in runs)}"
    return document(title, head, main, made_from="the files of these runs")


def _standfirst(runs: Runs) -> Html:
    found = [(run.best[1], run.name, run.best[0]) for run in runs if run.best]
    if len(found) < 2:
        return together(["Fewer than two of them have a validation loss."])
    loss, name, step = min(found)
    return together([element("strong", name), f" has the lowest validation loss: {loss:.3f}, at step {step:,.0f}."])


def _numbers(runs: Runs) -> Html:
    rows: list[list[Node]] = [[measure.name, *(_cell(measure, run) for run in runs)] for measure in MEASURES]
    text = "Losses are in nats per token; the training loss is the average at the end, speed and MFU are medians."
    return section("numbers", "In numbers", paragraph(text), _table("Measures by run", "", runs, rows, numbers=True))


def _cell(measure: Measure, run: TrainingRun) -> Html:
    remark = measure.remark(run)
    return together([measure.value(run), element("span", remark, class_="detail") if remark else None])


def _table(caption: str, first: str, runs: Runs, rows: Sequence[Sequence[Node]], numbers: bool = False) -> Html:
    """A table with a column a run, which scrolls by itself where it is wider than the page."""
    names = [_named(number, run) for number, run in enumerate(runs)]
    columns = range(1, len(runs) + 1) if numbers else ()
    return element("div", table(caption, [first, *names], rows, columns), class_="scroll", tabindex="0")


def _named(number: int, run: TrainingRun) -> Html:
    return together([Html(swatch(number)), " ", run.name])


def _legend(runs: Runs) -> Html:
    names = [element("span", _named(number, run)) for number, run in enumerate(runs)]
    return element("p", *names, class_="legend")


def _losses(runs: Runs) -> Html:
    kinds = {"loss": "training loss", "validation_loss": "validation loss"}
    there = {key: name for key, name in kinds.items() if any(points(run.metrics, key) for run in runs)}
    large = [_large(runs, key, f"{name}, nats per token") for key, name in there.items()]
    small: list[Node] = []
    for axis, label, unit in _axes(runs):
        for key, name in there.items():
            lines = [_line(run, key, [(x / unit, y) for x, y in run.by(key, axis)]) for run in runs]
            small.append(small_figure(lines, name, x_label=label, zero_y=False))
    text = (
        "Training losses are averages over neighbouring steps, validation losses are on text kept back from training."
    )
    return section(
        "losses", "Loss", paragraph(text), *large, _legend(runs) if small else None, charts(*small) if small else None
    )


def _large(runs: Runs, key: str, label: str) -> Html:
    lines = [_line(run, key, points(run.metrics, key)) for run in runs]

    def draw(width: int) -> str:
        return line_chart(lines, "step", label, width, 320 if width > 500 else 280, zero_x=True)

    return figure(draw)


def _line(run: TrainingRun, key: str, found: Sequence[Point]) -> Line:
    """A run's line: the average of what every step has, or dots for validations."""
    few = key == "validation_loss"
    return Line(run.name, found, smooth=not few, dots=few, raw=False)


def _axes(runs: Runs) -> list[tuple[str, str, float]]:
    """`(axis, label, unit)` of what else the losses are drawn by: time; tokens, unless they only repeat the steps."""
    tokens_a_step = [run.tokens / run.steps for run in runs if run.tokens and run.steps]
    longest = max((run.seconds or 0.0 for run in runs), default=0.0)
    units = ((HOURS, "hours"), (MINUTES, "minutes"))
    unit, name = next((u for u in units if longest > 2 * u[0]), (1.0, "seconds"))
    axes = [("tokens", "tokens", 1.0)] if tokens_a_step and max(tokens_a_step) > 1.01 * min(tokens_a_step) else []
    return [*axes, ("seconds", f"{name} of training", unit)] if longest else axes


def _stability(runs: Runs) -> Html:
    curves = (THROUGHPUT, GRADIENT_NORM, LEARNING_RATE, MEMORY)
    drawn = [_curve(runs, curve) for curve in curves if any(curve.points(run.metrics) for run in runs)]
    body = [_legend(runs), charts(*drawn)] if drawn else [missing("No training step was logged.")]
    return section("stability", "Speed and stability", *body)


def _curve(runs: Runs, curve: Curve) -> Html:
    lines = [Line(run.name, curve.points(run.metrics), smooth=curve.smooth, raw=False) for run in runs]
    return small_figure(lines, curve.label)


def _settings(runs: Runs) -> Html:
    rows: list[list[Node]] = [[key, *values] for key, values in differing_settings(runs)]
    if not rows:
        return section(
            "settings", "Settings that differ", missing("None: these runs have the same settings and inputs.")
        )
    text = "As recorded when each training began; of inputs, the start of their digests."
    shown = _table("Settings by run", "Setting", runs, rows)
    return section("settings", "Settings that differ", paragraph(text), shown)
