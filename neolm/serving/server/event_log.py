"""The server's log: one line for each event on standard error, JSON unless that is a terminal."""

from __future__ import annotations

import json
import sys
import traceback
from datetime import UTC, datetime
from typing import Any


class EventLog:
    """Writes events; `text` is whether prompts and answers may be included."""

    def __init__(self, text: bool = False) -> None:
        self.text = text
        self._stream = sys.stderr
        self._terminal = self._stream.isatty()

    def event(self, name: str, **fields: Any) -> None:
        """Write one line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._terminal:
            pairs = (
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in fields.items()
            )
            line = f"{now[11:19]}  {name}  {'  '.join(pairs)}"
        else:
            line = json.dumps({"time": now, "event": name, **fields}, ensure_ascii=False, default=str)
        try:
            # In one piece: the handler of a signal may print in between.
            print(line.replace("\n", "\\n") + "\n", end="", file=self._stream, flush=True)
        except (OSError, ValueError):  # a full disk or a closed pipe must not end an answer
            return

    def failure(self, request_id: str, error: BaseException) -> None:
        """Write where an unexpected error was raised, without its message, which may contain a prompt."""
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-6:]]
        self.event("failure", id=request_id, error=type(error).__name__, places=places)
