"""The parent's side of a measurement: one process a contestant, started, given turns, and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Failed(Exception):  # noqa: N818 - what happened to a contestant, which the others survive
    """A contestant cannot be measured; the message says why, in one line."""


@dataclass(frozen=True)
class Contestant:
    """Who is measured: a script of this directory, and what it is told."""

    name: str
    script: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    """The environment it runs in (environments.py); None: this one."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its process."""


class Worker:
    """A contestant's process. Between turns it waits for a line and uses no processor."""

    def __init__(self, contestant: Contestant, python: Path, job: Mapping[str, Any], logs: Path) -> None:
        """Start it; `ready` waits until it has warmed up."""
        self.name = contestant.name
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f"{contestant.name}.log"
        self._directory = tempfile.TemporaryDirectory(prefix="benchmark-")
        threads = str(job["threads"])
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [python, HERE / contestant.script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    "CUDA_VISIBLE_DEVICES": "0",  # one GPU for everybody: Trainer would take all
                    **os.environ,
                    "OMP_NUM_THREADS": threads,
                    "HF_HUB_OFFLINE": "1",
                    "PYTHONUNBUFFERED": "1",
                    **contestant.variables,
                },
                start_new_session=True,  # Ctrl-C is for the parent
            )
        self._send({**job, **contestant.settings, "directory": self._directory.name})

    def ready(self) -> dict[str, Any]:
        """What it answers once it is warm."""
        return self._receive()

    def run(self, steps: int) -> dict[str, Any]:
        """One turn."""
        return self.ask(do="run", steps=steps)

    def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to a command."""
        self._send(command)
        return self._receive()

    def stop(self) -> None:
        """End the process; safe to call again."""
        try:
            self._send({"do": "stop"})
            self._process.wait(timeout=10)
        except (Failed, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # closing sends what is left, to nobody
                if pipe is not None:
                    pipe.close()
        self._directory.cleanup()

    def _send(self, content: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise Failed(self._last_words()) from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        return dict(json.loads(line))

    def _last_words(self) -> str:
        """Why it ended: the last error it wrote, or else the last line."""
        code = self._process.wait()
        if code == -9:
            return "killed, most likely for want of memory"
        lines = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        last = next((line for line in reversed(errors or lines) if line), f"exit code {code}")
        note(f"  {self.name}: all that it wrote is in {self._log}")
        return last


def stop_on_termination() -> None:
    """Let SIGTERM unwind this process as an exception does, so that no contestant is left behind."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def note(text: str) -> None:
    """A line for the person who waits."""
    print(text, file=sys.stderr, flush=True)
