"""The command `neolm compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Output directories of runs, finished or not.")
    ],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
) -> None:
    """Compare runs.

    Prints a table and the settings that differ, and writes a page with the curves.
    """
    from neolm.report.compare import compare_runs

    print(compare_runs(runs, output))
