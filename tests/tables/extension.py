"""Extends a table slowly, for tests that kill it: `python extension.py SOURCE TARGET SECONDS_A_BATCH`."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neolm.tables.extend import extend_table
from neolm.tables.journal import Summary
from neolm.tables.table import Row, open_table

ADDED = ["words", "share", "masks", "error"]


def computed(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Columns of all types for each row; an error for every tenth."""
    results: list[Mapping[str, Any]] = []
    for row in rows:
        words = row.text("text").split()
        share = len(words) / 7
        results.append({"words": len(words), "share": share, "masks": [{"token": words[0]}]})
        if row.line % 10 == 0:
            results[-1] = {"error": "it has a ten"}
    return results


def extend(source: Path, target: Path, seconds: float = 0.0, batch_size: int = 8) -> Summary:
    """Extend the table; each batch takes `seconds`."""

    def compute(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
        time.sleep(seconds)
        return computed(rows)

    return extend_table(open_table(source), target, ADDED, compute, {"model": "test"}, batch_size)


if __name__ == "__main__":
    extend(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
