"""`metrics.jsonl`: one JSON object a logged step, and one a validation; what a resumed run keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from neolm.core.files import storage_errors, write_text


class MetricsLog:
    """Appends rows to a file, each flushed, so that a kill loses none that was written."""

    def __init__(self, path: Path, resume_at: int) -> None:
        """Open `path`, keeping of an earlier run the rows up to step `resume_at`."""
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resume_at]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, **row: Any) -> None:
        """Append one row."""
        with storage_errors(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file in order; a last line torn by a kill is left out, a missing file is empty."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows
