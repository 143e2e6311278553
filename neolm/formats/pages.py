"""Extract the text of web pages and wikitext in processes with limits of time and memory (`page_worker.py`)."""

from __future__ import annotations

import atexit
import contextlib
import json
import signal
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neolm.core.chunks import DamageError

SCRIPT = Path(__file__).with_name("page_worker.py")
PAGE_BYTES = 2**24  # of a page; the largest of Common Crawl have 1 MB
NEEDED = ("trafilatura", "resiliparse", "mwparserfromhell")
INSTALL = "needs the packages of the extra [corpus]: pip install 'neolm[corpus]'"


@cache
def is_installed() -> bool:
    """Whether the packages that read pages are installed."""
    return all(find_spec(name) is not None for name in NEEDED)


def extract(data: bytes, task: str, charset: str = "") -> dict[str, Any]:
    """The `text` of a page, with its `encoding`, `encoding_from` and `extractor`.

    `task`: the extractor that is tried first, `wikitext`, or `text` (decode only); `charset`: declared outside of it.

    Raises:
        DamageError: `too_large`; `not_extracted`: no main text, or too much time or memory; `unreadable`: no packages.
    """
    if len(data) > PAGE_BYTES:
        raise DamageError("too_large", f"the page has more than {PAGE_BYTES:,} bytes")
    if not is_installed():
        raise DamageError("unreadable", f"this {INSTALL}")
    worker = _idle.pop() if _idle else _Worker()
    found = worker.ask({"size": len(data), "task": task, "charset": charset}, data)
    _idle.append(worker)
    if "error" in found:
        raise DamageError("not_extracted", found["error"])
    if not found["text"]:
        raise DamageError("not_extracted", "no main text was found")
    return found


class _Worker:
    """A process that answers one request after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def ask(self, request: dict[str, Any], data: bytes) -> dict[str, Any]:
        """The answer. Raises `DamageError` if the process ends instead."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = b""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n" + data)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            code = self.close()
            why = "time" if code == -signal.SIGPROF else "memory or depth"
            raise DamageError("not_extracted", f"the page takes too much {why} (the extractor ended with {code})")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> int:
        """End the process and return its exit code."""
        with self._process as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        return process.returncode


_idle: list[_Worker] = []
"""Processes that wait for a page. Each thread that reads takes one at a time."""


@atexit.register
def _close_all() -> None:
    while _idle:
        _idle.pop().close()
