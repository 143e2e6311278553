"""The contestants' processes as seen by the parent: start, send commands, stop."""

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


class BenchmarkError(Exception):
    """A contestant cannot be measured. The message is the reason in one line."""


@dataclass(frozen=True)
class Contestant:
    """A measured program: a script of this directory, with its settings."""

    name: str
    script: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: str | None = None
    """Name of its environment (environments.py); None: the current environment."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables of its process."""


class Worker:
    """A contestant's process. Between turns it waits for input and uses no processor time."""

    def __init__(self, contestant: Contestant, python: Path, job: Mapping[str, Any], logs: Path) -> None:
        """Start the process; `ready` waits for the end of its warm-up."""
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
                    "CUDA_VISIBLE_DEVICES": "0",  # one GPU for each contestant: Trainer would use all
                    **os.environ,
                    "OMP_NUM_THREADS": threads,
                    "HF_HUB_OFFLINE": "1",
                    "PYTHONUNBUFFERED": "1",
                    **contestant.variables,
                },
                start_new_session=True,  # Ctrl-C stops only the parent
            )
        self._send({**job, **contestant.settings, "directory": self._directory.name})

    def ready(self) -> dict[str, Any]:
        """Return its answer at the end of the warm-up."""
        return self._receive()

    def run(self, steps: int) -> dict[str, Any]:
        """Run one turn of `steps` steps and return the measurements."""
        return self.request(do="run", steps=steps)

    def request(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the answer."""
        self._send(command)
        return self._receive()

    def stop(self) -> None:
        """Stop the process; a second call does nothing."""
        try:
            self._send({"do": "stop"})
            self._process.wait(timeout=10)
        except (BenchmarkError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # closing flushes to a process that has ended
                if pipe is not None:
                    pipe.close()
        self._directory.cleanup()

    def _send(self, content: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise BenchmarkError(self._failure_reason()) from None

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(self._failure_reason())
        return dict(json.loads(line))

    def _failure_reason(self) -> str:
        """Return why the process ended: the last error in its log, or else the last line."""
        code = self._process.wait()
        if code == -9:
            return "killed, most likely because memory ran out"
        lines = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        last = next((line for line in reversed(errors or lines) if line), f"exit code {code}")
        log(f"  {self.name}: the whole log is {self._log}")
        return last


def stop_on_termination() -> None:
    """Make SIGTERM raise SystemExit, so that all contestants are stopped."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def log(text: str) -> None:
    """Print a line of progress to standard error."""
    print(text, file=sys.stderr, flush=True)
