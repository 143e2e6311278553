"""What `neolm compare` does."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from neolm.core.errors import InputError
from neolm.core.files import write_text
from neolm.core.progress import table
from neolm.report.comparison_page import comparison_page
from neolm.report.differing import caution, differing_settings
from neolm.report.document import GENERATOR
from neolm.report.measures import measured
from neolm.report.training_run import TrainingRun, read_training_runs


def compare_runs(places: Sequence[Path], output: Path) -> str:
    """Write the page to `output`, and return what to print: numbers, settings that differ, where the page is.

    Raises:
        InputError: see `read_training_runs`; or `output` is something else than such a page, or cannot be written.
    """
    _refuse_foreign(output)
    runs = read_training_runs(places)
    try:
        write_text(output, comparison_page(runs))
    except FileNotFoundError:  # what a file system such as /proc says
        raise InputError(f"--output: {output} cannot be written") from None
    warning = caution(runs)
    tables = _side_by_side(measured(runs)), _settings(runs)
    return "\n\n".join([*tables, *([warning] if warning else []), str(output)])


def _settings(runs: Sequence[TrainingRun]) -> str:
    found = differing_settings(runs)
    if not found:
        return "The settings and inputs are the same."
    head = ("SETTINGS THAT DIFFER", *(run.name for run in runs))
    return _side_by_side([head, *((key, *values) for key, values in found)])


def _side_by_side(rows: Sequence[tuple[str, ...]]) -> str:
    """A table, or as many below one another, each with the first column, as the terminal's width makes of it."""
    room = shutil.get_terminal_size((160, 24)).columns
    widths = [2 + max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    groups, used = [[1]], widths[0] + widths[1]
    for column in range(2, len(widths)):
        used += widths[column]
        if used > room + 2:  # the last column has no gap after it
            groups.append([])
            used = widths[0] + widths[column]
        groups[-1].append(column)
    return "\n\n".join(table([(row[0], *(row[c] for c in group)) for row in rows]) for group in groups)


def _refuse_foreign(output: Path) -> None:
    """Make sure that `output` may be written: nothing is there, or a page of ours."""
    if output.is_dir():
        raise InputError(f"--output: {output} is a directory; give a file such as {output / 'compare.html'}")
    if not output.parent.is_dir():
        raise InputError(f"--output: {output.parent}: no such directory")
    if output.exists():
        with output.open(encoding="utf-8", errors="replace") as file:
            start = file.read(1000)
        if f'name="generator" content="{GENERATOR} ' not in start:
            raise InputError(f"--output: {output} is not a page of NeoLM; it is left alone. Give another file")
