"""Writing `metrics.jsonl`: rows are appended, sent to the trackers, and cut back to the resumed step."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from neolm.core.files import storage_errors, write_text
from neolm.core.metrics import read_metrics
from neolm.core.progress import say
from neolm.training.trackers import Tracker, first_line


class MetricsLog:
    """Appends rows to a file and flushes each, so that a kill loses none that was written."""

    def __init__(self, path: Path, resume_at: int, trackers: Sequence[Tracker] = (), *, writes: bool = True) -> None:
        """Open `path` and drop the rows after step `resume_at`. The trackers receive each new row.

        A log that does not write is that of a rank other than 0.
        """
        self.path = path
        self._file: IO[str] | None = None
        self._trackers = list(trackers)
        if not writes:
            return
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(path) if row["step"] <= resume_at]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, **row: Any) -> None:
        """Append one row."""
        if self._file is None:
            return
        with storage_errors(self.path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        self._for_each(lambda tracker: tracker.log(row))

    def close(self) -> None:
        """Close the file and the trackers."""
        if self._file is not None:
            self._file.close()
        self._for_each(lambda tracker: tracker.close())

    def _for_each(self, call: Callable[[Tracker], None]) -> None:
        """Call each tracker. One that raises is reported once and removed."""
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                say(f"{tracker.name} has failed and was closed ({first_line(error)}); metrics.jsonl is complete")
