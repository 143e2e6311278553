"""Results of rows, kept next to a file that is being made, so that work that is killed goes on where it stopped.

The journal is a file of JSON lines: a digest of the work, then for each row its line in the table and its result. It is
read again from the start: what follows a line that is damaged, or the last whole batch, is cut off and computed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from neolm.core.errors import InputError
from neolm.core.files import digest_json, storage_errors
from neolm.core.progress import say

SHOWN = 5  # reasons that the summary names
Result = tuple[int, Mapping[str, Any]]
"""The line of a row and the columns that it gets; `error` if the row cannot be used."""


@dataclass
class Summary:
    """Numbers of rows, and the reasons for the first ones that could not be used."""

    rows: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, results: Sequence[Result]) -> None:
        """Count results."""
        self.rows += len(results)
        for line, result in results:
            if result.get("error"):
                self.failed += 1
                if self.failed <= SHOWN:
                    self.reasons.append(f"line {line}: {result['error']}")

    def __str__(self) -> str:
        text = f"{self.rows - self.failed:,} of {self.rows:,} rows done"
        more = f"; and {self.failed - len(self.reasons):,} more" if self.failed > len(self.reasons) else ""
        return f"{text}; {'; '.join(self.reasons)}{more}" if self.failed else text


class Journal:
    """The results so far, in the order of the rows."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file, self.summary = path, file, Summary()

    def append(self, results: Sequence[Result]) -> None:
        """Add the results of a batch."""
        self._file.write(b"".join(json.dumps(result).encode() + b"\n" for result in results))
        self._file.flush()
        self.summary.add(results)

    def results(self) -> Iterator[Mapping[str, Any]]:
        """The results from the start."""
        with self.path.open("rb") as file:
            file.readline()
            for line in file:
                yield json.loads(line)[1]

    def restore(self, work: str, batch_size: int) -> None:
        """Keep the whole batches of an earlier session with the same `work`; without one, start anew."""
        self._file.seek(0)
        start = json.dumps({"work": work}).encode() + b"\n"
        first, end, batch = self._file.readline(), len(start), list[Result]()
        if first == start:
            for line in self._file:
                result = _result(line)
                if result is None:
                    break
                batch.append(result)
                if len(batch) == batch_size:
                    self.summary.add(batch)
                    end, batch = self._file.tell(), []
        elif first:
            say(f"{self.path}: the input, the model or a setting has changed since it was begun; starting anew")
        self._file.truncate(end if first == start else 0)
        self._file.seek(0, os.SEEK_END)
        if first != start:
            self._file.write(start)


@contextlib.contextmanager
def open_journal(target: Path, work: Mapping[str, Any], batch_size: int) -> Iterator[Journal]:
    """The journal of the file `target`, which is removed if the block ends without an error.

    Args:
        target: The file that is being made.
        work: What the results follow from. If it differs from that of the journal, the journal starts anew.
        batch_size: Rows whose results are computed together, and kept together.

    Raises:
        InputError: another process is at work on `target`.
    """
    path = target.with_name(f".{target.name}.journal")
    with storage_errors(path), path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):  # another process has finished meanwhile
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            raise InputError(f"{target}: another process is writing this file") from None
        journal = Journal(path, file)
        journal.restore(digest_json(work), batch_size)
        yield journal
        path.unlink()


def _result(line: bytes) -> Result | None:
    """The result in a line; None if the line is torn or damaged."""
    try:
        number, result = json.loads(line)
    except ValueError:
        return None
    return (number, result) if line.endswith(b"\n") and isinstance(result, dict) else None
