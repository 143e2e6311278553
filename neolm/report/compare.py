"""`neolm compare`: several runs side by side, on the terminal and on a page."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from neolm.core.errors import InputError
from neolm.core.files import write_text
from neolm.core.progress import table
from neolm.report.comparison import comparison_page
from neolm.report.measures import differing_settings, measured, notes
from neolm.report.pages import GENERATOR
from neolm.report.training_run import TrainingRun, read_training_runs


def compare_runs(places: Sequence[Path], output: Path) -> str:
    """Write the page to `output` and return the text to print: numbers, settings that differ, path of the page.

    Raises:
        InputError: see `read_training_runs`; or `output` exists and is not such a page, or cannot be written.
    """
    _refuse_foreign(output)
    runs = read_training_runs(places)
    try:
        write_text(output, comparison_page(runs))
    except FileNotFoundError:  # on a file system such as /proc
        raise InputError(f"--output: {output} cannot be written") from None
    numbers = [(name, *(" ".join(filter(None, cell)) for cell in cells)) for name, cells in measured(runs)]
    head = ("", *(run.name for run in runs))
    return "\n\n".join([_side_by_side([head, *numbers]), _settings(runs), *notes(runs), str(output)])


def _settings(runs: Sequence[TrainingRun]) -> str:
    found = differing_settings(runs)
    if not found:
        return "The settings and inputs are the same."
    head = ("SETTINGS THAT DIFFER", *(run.name for run in runs))
    return _side_by_side([head, *((key, *values) for key, values in found)])


def _side_by_side(rows: Sequence[tuple[str, ...]]) -> str:
    """A table, or several below one another if it is wider than the terminal, each with the first column."""
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
    """Make sure that `output` may be written: it does not exist, or is a page that NeoLM wrote."""
    if output.is_dir():
        raise InputError(f"--output: {output} is a directory. Give a file such as {output / 'compare.html'}")
    if not output.parent.is_dir():
        raise InputError(f"--output: {output.parent}: no such directory")
    if output.exists():
        with output.open(encoding="utf-8", errors="replace") as file:
            start = file.read(1000)
        if f'name="generator" content="{GENERATOR} ' not in start:
            raise InputError(
                f"--output: {output} is not a page written by NeoLM and was not changed. Give another file"
            )
