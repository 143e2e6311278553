"""The settings in which runs differ, and whether their losses may be compared at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from neolm.core.artifact import differences_among
from neolm.report.training_run import TrainingRun


def differing_settings(runs: Sequence[TrainingRun]) -> list[tuple[str, list[str]]]:
    """`(key, its value in each run)` of every setting, and every input by digest, in which not all runs agree."""
    found = differences_among([run.settings for run in runs])
    return [(key, [_shown(value) for value in values]) for key, values in found]


def caution(runs: Sequence[TrainingRun]) -> str | None:
    """Why these runs' losses do not compare, if they do not."""

    def differ(name: str) -> bool:
        return len({run.settings["inputs"].get(name) for run in runs}) > 1

    if differ("tokenizer"):
        return (
            "These runs do not share a tokenizer, so a token of one is not a token of another and their losses do not "
            "compare. Bits per byte do: neolm evaluate MODEL --text TEXT, with one text for all."
        )
    if differ("shards"):
        return "These runs were trained and validated on different text, so their losses compare only roughly."
    return None


def _shown(value: Any) -> str:
    """A value as it would stand in a recipe; `none` for null, and for a key that a run does not have."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
