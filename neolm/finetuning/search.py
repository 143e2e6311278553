"""A grid of settings: one training for each combination, of which the best on the validation examples is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neolm.core.files import remove
from neolm.core.progress import say, table
from neolm.evaluation.text_scores import example_values
from neolm.finetuning.candidates import Trained
from neolm.finetuning.config import FinetuneConfig
from neolm.models.label_config import Problem


@dataclass(frozen=True)
class Cell:
    """A combination of settings."""

    settings: Mapping[str, Any]
    config: FinetuneConfig

    @property
    def name(self) -> str:
        """The settings as the name of a directory."""
        return ",".join(f"{name}={value}" for name, value in self.settings.items())


def cells(config: FinetuneConfig) -> list[Cell]:
    """All combinations of the values of `config.search`; none if it has no values."""
    values = {name: getattr(config.search, name) for name in type(config.search).model_fields}
    searched = {name: dict.fromkeys(found) for name, found in values.items() if found}  # equal values count once
    if not searched:
        return []
    combinations = [dict(zip(searched, chosen, strict=True)) for chosen in product(*searched.values())]
    return [Cell(settings, config.model_copy(update=settings)) for settings in combinations]


def search(
    tried: Sequence[Cell],
    train: Callable[[Cell], Trained],
    directory: Path,
    problem: Problem,
    targets: NDArray[Any],
) -> tuple[Cell, list[dict[str, Any]]]:
    """Train the cells in `directory`; only the checkpoints of the best one are kept.

    Args:
        tried: The cells.
        train: Trains a cell in `directory / cell.name`, or returns what an earlier session kept of it.
        directory: Where the cells are.
        problem: What the outputs stand for.
        targets: Of the validation examples, as `train` is scored.

    Returns:
        The best cell, and settings and score of each, the best first: the mean of `example_values`.
    """
    scores: list[float] = []
    for number, cell in enumerate(tried):
        say(f"finetune: search {number + 1} of {len(tried)}: {cell.name.replace(',', ', ')}")
        logits = train(cell).logits.double().numpy()
        scores.append(float(example_values(problem, logits, targets).mean()))
        best = int(np.argmax(scores))
        for other in range(number + 1):
            if other != best:
                remove(directory / tried[other].name / "checkpoints")
    order = np.argsort([-score for score in scores], kind="stable")
    rows = [{**tried[place].settings, "score": scores[place]} for place in order]
    measure = "negative squared error" if problem == "regression" else "accuracy"
    header = (*tried[0].settings, measure)
    say(table([header, *(tuple(f"{value:.4g}" for value in row.values()) for row in rows)]))
    say("finetune: the first is chosen; its score is too good, because the same examples chose it")
    return tried[order[0]], rows
