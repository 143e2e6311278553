"""What is compared in numbers: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neolm.core.energy import how_known
from neolm.core.progress import count, duration
from neolm.report.figure import energy_amount
from neolm.report.training_run import TrainingRun

NONE = "\u2013"


@dataclass(frozen=True)
class Measure:
    """A row: its name, the value of a run in words, and a remark of a word or two."""

    name: str
    value: Callable[[TrainingRun], str]
    remark: Callable[[TrainingRun], str] = lambda run: ""


def _loss(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _best(run: TrainingRun) -> str:
    return f"at step {run.best[0]:,.0f}" if run.best else ""


def _unfinished(run: TrainingRun) -> str:
    if run.manifest is not None:
        return ""
    planned = run.settings.get("pretrain", {}).get("steps")
    return f"of {planned:,}, not finished" if planned else "not finished"


def _energy(run: TrainingRun) -> str:
    kwh = run.manifest.energy.get("kwh") if run.manifest else None
    return NONE if kwh is None else energy_amount(float(kwh))


def _energy_known(run: TrainingRun) -> str:
    if run.manifest is None or run.manifest.energy.get("kwh") is None:
        return ""
    known = how_known([str(run.manifest.energy.get("method", ""))])
    return "estimate" if known.startswith("an estimate") else known.partition(",")[0]


def _optional(value: float | None, words: Callable[[float], str]) -> str:
    return NONE if value is None else words(value)


MEASURES = (
    Measure("Steps", lambda run: f"{run.steps:,}", _unfinished),
    Measure("Best validation loss", lambda run: _loss(run.best[1] if run.best else None), _best),
    Measure("Final validation loss", lambda run: _loss(run.validation[-1][1] if run.validation else None)),
    Measure("Training loss", lambda run: _loss(run.training_loss)),
    Measure("Tokens", lambda run: _optional(run.tokens, count)),
    Measure("Tokens a second", lambda run: _optional(run.usual("tokens_per_second"), count)),
    Measure("MFU", lambda run: _optional(run.usual("mfu"), lambda share: f"{share:.1%}")),
    Measure("Time", lambda run: _optional(run.seconds, duration)),
    Measure("Energy", _energy, _energy_known),
    Measure("Parameters", lambda run: _optional(run.parameters, count)),
)


def measured(runs: Sequence[TrainingRun]) -> list[tuple[str, ...]]:
    """The whole as rows of text: a row a measure, a column a run."""

    def cell(measure: Measure, run: TrainingRun) -> str:
        remark = measure.remark(run)
        return f"{measure.value(run)} {remark}".strip()

    return [("", *(run.name for run in runs)), *((m.name, *(cell(m, run) for run in runs)) for m in MEASURES)]
