"""The measures that runs are compared by, for the terminal and for the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neolm.core.artifact import differences_among
from neolm.core.energy import how_known
from neolm.core.progress import count, duration
from neolm.report.pages import energy_amount
from neolm.report.training_run import TrainingRun

NONE = "\u2013"


@dataclass(frozen=True)
class Measure:
    """A row of the table: its name, the value of a run, and a remark of a word or two."""

    name: str
    value: Callable[[TrainingRun], str]
    remark: Callable[[TrainingRun], str] = lambda run: ""


def _optional(value: float | None, words: Callable[[float], str] = "{:.4f}".format) -> str:
    return NONE if value is None else words(value)


def _unfinished(run: TrainingRun) -> str:
    if run.manifest is not None:
        return ""
    planned = run.settings.get("pretrain", {}).get("steps")
    return f"of {planned:,}, not finished" if planned else "not finished"


def _kwh(run: TrainingRun) -> float | None:
    return run.manifest.energy.get("kwh") if run.manifest else None


def _energy_known(run: TrainingRun) -> str:
    if run.manifest is None or _kwh(run) is None:
        return ""
    known = how_known([str(run.manifest.energy.get("method", ""))])
    return "estimate" if known.startswith("an estimate") else known.partition(",")[0]


def _interval(run: TrainingRun) -> str:
    score = run.bits_per_byte
    return f"({score.interval[0]:.3f} to {score.interval[1]:.3f})" if score and score.interval else ""


BITS_PER_BYTE = Measure(
    "Bits per byte", lambda run: f"{run.bits_per_byte.value:.3f}" if run.bits_per_byte else NONE, _interval
)
MEASURES = (
    Measure("Steps", lambda run: f"{run.steps:,}", _unfinished),
    Measure(
        "Best validation loss",
        lambda run: _optional(run.best[1] if run.best else None),
        lambda run: f"at step {run.best[0]:,.0f}" if run.best else "",
    ),
    Measure("Final validation loss", lambda run: _optional(run.validation[-1][1] if run.validation else None)),
    Measure("Training loss", lambda run: _optional(run.training_loss)),
    BITS_PER_BYTE,
    Measure("Tokens", lambda run: _optional(run.tokens, count)),
    Measure("Tokens per second", lambda run: _optional(run.usual("tokens_per_second"), count)),
    Measure("MFU", lambda run: _optional(run.usual("mfu"), "{:.1%}".format)),
    Measure("Time", lambda run: _optional(run.seconds, duration)),
    Measure("Energy", lambda run: _optional(_kwh(run), energy_amount), _energy_known),
    Measure("Parameters", lambda run: _optional(run.parameters, count)),
)


def measured(runs: Sequence[TrainingRun]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The name of each measure with the (value, remark) of each run. Bits per byte only if they are comparable."""
    measures = [measure for measure in MEASURES if measure is not BITS_PER_BYTE or comparable_scores(runs)]
    return [(measure.name, [(measure.value(run), measure.remark(run)) for run in runs]) for measure in measures]


def differing_settings(runs: Sequence[TrainingRun]) -> list[tuple[str, list[str]]]:
    """`(key, its value in each run)` of every setting and input digest that is not the same in all runs."""
    found = differences_among([run.settings for run in runs])
    return [(key, [_shown(value) for value in values]) for key, values in found]


def comparable_scores(runs: Sequence[TrainingRun]) -> bool:
    """Whether there are bits per byte, all of them measured on the same text."""
    return len(_measured_texts(runs)) == 1


def comparable_losses(runs: Sequence[TrainingRun]) -> bool:
    """Whether a token of one run is a token of the others."""
    return not _differ(runs, "tokenizer")


def notes(runs: Sequence[TrainingRun]) -> list[str]:
    """What must be known before these runs are compared."""
    texts, found = _measured_texts(runs), []
    if not comparable_losses(runs):
        found.append("These runs have different tokenizers, so their losses per token are not comparable.")
    elif _differ(runs, "shards"):
        found.append("These runs were trained on different text, so their losses are only roughly comparable.")
    if len(texts) > 1:
        found.append("Bits per byte are not shown, because these runs were evaluated on different held-out text.")
    if found and len(texts) != 1:
        found.append("To compare bits per byte, measure each run on the same text: neolm evaluate RUN --text TEXT")
    return found


def _measured_texts(runs: Sequence[TrainingRun]) -> set[str]:
    """Digests of the texts that bits per byte were measured on."""
    return {str(run.protocol.get("data", {}).get("digest")) for run in runs if run.bits_per_byte}


def _differ(runs: Sequence[TrainingRun], name: str) -> bool:
    return len({run.settings["inputs"].get(name) for run in runs}) > 1


def _shown(value: Any) -> str:
    """A value as a recipe would have it; `none` for null and for a key that the run does not have."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
