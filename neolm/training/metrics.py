"""`metrics.jsonl` as it is written: what a resumed run keeps of it, and who else gets its rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from neolm.core.files import storage_errors, write_text
from neolm.core.metrics import read_metrics
from neolm.training.trackers import Tracker, say_lost


class MetricsLog:
    """Appends rows to a file, each flushed, so that a kill loses none that was written."""

    def __init__(self, path: Path, resume_at: int, trackers: Sequence[Tracker] = ()) -> None:
        """Open `path`, keeping of an earlier run the rows up to step `resume_at`; the trackers get each new row."""
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resume_at]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._trackers = list(trackers)

    def write(self, **row: Any) -> None:
        """Append one row."""
        with storage_errors(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        self._ask_each(lambda tracker: tracker.log(row))

    def close(self) -> None:
        """Close the file and the trackers."""
        self._file.close()
        self._ask_each(lambda tracker: tracker.close())
        self._trackers = []

    def _ask_each(self, ask: Callable[[Tracker], None]) -> None:
        """Ask each tracker; one that fails, in whatever way, is told of once and asked no more."""
        for tracker in list(self._trackers):
            try:
                ask(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                say_lost(tracker, error)
