"""The `study` section of a recipe: trainings that differ in a few settings."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from neolm.core.config import Config, Unit

CELL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
SHARED_SECTIONS = ("corpus", "tokenizer")
"""Sections whose stages are built once and used by all cells."""
CELL_SECTIONS = ("model", "pretrain", "evaluate")
"""Sections that a cell may change."""

Seed = Annotated[int, Field(ge=0)]


class StudyConfig(Config):
    """Train the model of the recipe several times, with other settings and seeds, and compare the results."""

    cells: dict[str, dict[str, Any]]
    """Name of each cell, with the settings of model, pretrain and evaluate in which it differs from the recipe; {}: the
    recipe itself. Keys may be dotted."""
    seeds: tuple[Seed, ...] = (1, 2, 3)
    """Seeds of each cell. All cells are trained with the first one, then with the next."""
    report: Literal["comparison", "albert"] = "comparison"
    """Page about the cells: the numbers and curves of `neolm compare`, or the claims of the ALBERT paper, for encoders
    with the cells of the recipe reproduce-albert."""
    max_bytes: Annotated[int, Field(gt=0), Unit("bytes")] = 400_000
    """Held-out text that encoders are measured on for the page albert: whole documents, chosen by a hash of their
    id."""

    @field_validator("cells")
    @classmethod
    def _named(cls, cells: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not cells:
            raise ValueError("give at least one cell, such as {small: {model.num_layers: 2}}")
        for name in cells:
            if not CELL_NAME.fullmatch(name):
                raise ValueError(f"'{name}' cannot name a cell; use lower-case letters, digits, '-', '_' and '.'")
        return cells

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("give at least one seed, and none twice")
        return seeds

    def without_effect(self) -> dict[str, str]:
        """Fields that other fields make meaningless, each with the reason."""
        return {} if self.report == "albert" else {"max_bytes": "report is not albert"}

    @property
    def places(self) -> list[tuple[str, int]]:
        """Name and seed of each training, in order."""
        return [(name, seed) for seed in self.seeds for name in self.cells]


def cell_directory(name: str, seed: int) -> str:
    """Directory of a cell under `output`."""
    return f"cells/{name}-seed{seed}"
