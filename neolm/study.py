"""Run a study: several trainings of one recipe that differ in a few settings and in the seed, and a page about them.

    output/corpus, tokenizer, shards          built once
    output/cells/NAME-seedN/                  a run like any other; its corpus, tokenizer and shards are links to those
    output/cells/NAME-seedN/heldout/          scores of an encoder on the same held-out text, for the page albert
    output/cells/NAME-seedN/failure.json      why the cell failed; removed when it is finished
    output/report.html                        the page, written after each cell

A cell that is finished is up to date, one that was interrupted resumes, and one that failed does not stop the others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from neolm.core.config import leaves
from neolm.core.errors import InputError, InterruptedRun, NeoLMError, StorageError
from neolm.core.files import remove, storage_errors, write_json
from neolm.core.manifest import read_manifest
from neolm.core.progress import duration, say
from neolm.models.families import ENCODERS
from neolm.pipeline import build, claimed
from neolm.recipe import Recipe
from neolm.stages import REPORT, architecture
from neolm.study_config import cell_directory

SHARED = ("corpus", "tokenizer", "shards")
"""Stages that are built once for all cells."""
FAILURE = "failure.json"


@dataclass(frozen=True)
class Cell:
    """One training of a study."""

    name: str
    seed: int
    output: Path
    recipe: Recipe
    is_scored: bool
    """Whether it is measured on held-out text as an encoder."""

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def is_finished(self) -> bool:
        """Whether all of its stages were built, with whichever settings."""
        return read_manifest(self.output / ("heldout" if self.is_scored else "model")) is not None


def run_study(settings: Recipe, output: Path, until: str | None = None) -> None:
    """Build the shared stages and then the cells, up to the stage `until`; None: to the end, with the page.

    Raises:
        InputError: a cell or the data cannot be used; no training was started.
        NeoLMError: cells have failed; the others are finished.
        InterruptedRun: Ctrl-C or SIGTERM; the state was saved.
        StorageError: the disk is full; the last good checkpoint is intact.
    """
    with claimed(output):
        build(settings, output, until if until in SHARED else SHARED[-1])
        if until in SHARED:
            return
        study = settings.study
        assert study is not None
        cells = [
            Cell(name, seed, output / cell_directory(name, seed), settings.cell(name, seed), study.report == "albert")
            for name, seed in study.places
        ]
        _check(cells, output)
        failures = _run_cells(cells, settings, output, until)
        if until is None:
            _write_page(output, settings)
            say(f"report: {output / REPORT.name}")
    if failures:
        named = "; ".join(f"{cell}: {error}" for cell, error in list(failures.items())[:3])
        more = f" (and {len(failures) - 3} more)" if len(failures) > 3 else ""
        kind = InputError if all(isinstance(error, InputError) for error in failures.values()) else NeoLMError
        finished = len(cells) - len(failures)
        raise kind(f"{len(failures)} of {len(cells)} cells failed, {finished} are finished: {named}{more}")


def _check(cells: list[Cell], output: Path) -> None:
    """Raise InputError for a cell whose architecture does not fit together, the tokenizer or the sequence length."""
    for cell in cells:
        try:
            found = architecture(cell.recipe.model_copy(update={"output": str(output)}))
        except InputError as error:
            raise InputError(f"study.cells.{cell.name}: {error}") from None
        if cell.is_scored and found.family not in ENCODERS:
            raise InputError(f"study.report: albert is about encoders, and the cell {cell.name} is a {found.family}")


def _run_cells(cells: list[Cell], settings: Recipe, output: Path, until: str | None) -> dict[str, Exception]:
    """Build the cells one after the other; returns the error of each that failed."""
    failures: dict[str, Exception] = {}
    left = sum(not cell.is_finished for cell in cells)
    done, began = 0, time.monotonic()
    for number, cell in enumerate(cells, 1):
        new = not cell.is_finished
        each = (time.monotonic() - began) / done if done else 0
        eta = f"; {duration(each)} a cell so far, about {duration(each * left)} left" if done and new else ""
        say(f"cell {number} of {len(cells)}: {cell}{eta}")
        try:
            _run_cell(cell, settings, until)
        except (InterruptedRun, StorageError) as error:
            raise type(error)(f"{cell} (cell {number} of {len(cells)}): {error}") from None
        except (NeoLMError, RuntimeError, MemoryError) as error:  # RuntimeError: such as torch's out of memory
            failures[str(cell)] = error
            reason = " ".join(str(error).split()) or type(error).__name__
            say(f"{cell} failed: {reason}")
            write_json(cell.output / FAILURE, {"reason": reason})
        if new:
            done, left = done + 1, left - 1
            if until is None:
                _write_page(output, settings)
    return failures


def _run_cell(cell: Cell, settings: Recipe, until: str | None) -> None:
    with storage_errors(cell.output):
        cell.output.mkdir(parents=True, exist_ok=True)
        for stage in SHARED:
            link = cell.output / stage
            if not link.is_symlink() and not link.exists():
                link.symlink_to(Path("..", "..", stage), target_is_directory=True)
    with claimed(cell.output):
        build(cell.recipe, cell.output, until)
        if until is None and cell.is_scored:
            from neolm.study_scores import build_scores

            assert settings.pretrain is not None
            assert settings.study is not None
            assert cell.recipe.pretrain is not None
            build_scores(cell.output, cell.recipe.pretrain, settings.pretrain.sequence_length, settings.study.max_bytes)
        remove(cell.output / FAILURE)


def _write_page(output: Path, settings: Recipe) -> None:
    from neolm.report.study_page import write_study_page

    study = settings.study
    assert study is not None
    places = [(name, seed, output / cell_directory(name, seed)) for name, seed in study.places]
    changes = {
        name: ", ".join(f"{key}: {'none' if value is None else value}" for key, value in leaves(cell))
        for name, cell in study.cells.items()
    }
    write_study_page(output / REPORT.name, places, study.report, changes)
