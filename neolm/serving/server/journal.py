"""The server's log: a line a request on standard error, JSON off a terminal; no prompt and no answer unless asked."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO


class Journal:
    """Writes events; `text` says whether prompts and answers may be written too."""

    def __init__(self, text: bool = False, stream: TextIO | None = None) -> None:
        self.text = text
        self._stream = stream or sys.stderr
        self._plain = self._stream.isatty()

    def event(self, name: str, **facts: Any) -> None:
        """Write one line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._plain:
            shown = "  ".join(f"{key} {_plain(value)}" for key, value in facts.items())
            line = f"{now[11:19]}  {name}  {shown}"
        else:
            line = json.dumps({"time": now, "event": name, **facts}, ensure_ascii=False, default=str)
        try:
            print(line.replace("\n", "\\n"), file=self._stream, flush=True)
        except (OSError, ValueError):  # a full disk or a closed pipe ends no answer
            return

    def request(
        self, id: str, method: str, path: str, status: int, seconds: float, client: str, facts: Mapping[str, Any]
    ) -> None:
        """A request is answered; 499: its client left before."""
        self.event(
            "request",
            id=id,
            method=method,
            path=path,
            status=status,
            seconds=round(seconds, 4),
            client=client,
            **facts,
        )

    def failure(self, id: str, error: BaseException) -> None:
        """A bug: where it is, without what was being said."""
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-6:]]
        self.event("failure", id=id, error=type(error).__name__, places=places)


def _plain(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
