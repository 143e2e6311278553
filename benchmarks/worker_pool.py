"""A pool of contestants' processes that take turns. A contestant that fails is left out, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from environments import environment, versions
from workers import BenchmarkError, Contestant, Worker, log

Result = dict[str, Any]


class WorkerPool:
    """The contestants' processes and their results by name; a failed contestant has the key "failed" in `results`."""

    def __init__(
        self,
        job: Mapping[str, Any],
        environments: Path,
        logs: str,
        ready: Callable[[str, Result, Result], None] = lambda name, answer, result: None,
    ) -> None:
        """Create an empty pool; a process starts with the first turn of its contestant.

        Args:
            job: The part of the job that all contestants share.
            environments: Directory of the peers' environments.
            logs: Name of the folder for the contestants' logs, in `environments/logs`.
            ready: Called with a contestant's name, its first answer, and its result.
        """
        self.results: dict[str, Result] = {}
        self._job, self._environments, self._ready = job, environments, ready
        self._logs = environments / "logs" / logs
        self._workers: dict[str, Worker] = {}
        self._unavailable: dict[str, str] = {}  # environments that cannot be created, with the reason

    def run_turn(self, contestant: Contestant, keep: bool, turn: Callable[[Worker, Result], None]) -> None:
        """Run one turn of `contestant`, unless it has failed before; `keep` keeps its process for the next turn."""
        name = contestant.name
        result = self.results.setdefault(name, {})
        if "failed" in result:
            return
        try:
            turn(self._workers.get(name) or self._start(contestant, result), result)
        except BenchmarkError as failure:
            self.fail(name, str(failure))
        if not keep or "failed" in result:
            worker = self._workers.pop(name, None)
            if worker:
                worker.stop()

    def fail(self, name: str, reason: str) -> None:
        """Leave a contestant out of all further turns."""
        result = self.results.setdefault(name, {})
        if "failed" not in result:
            result["failed"] = reason
            log(f"  {name}: left out: {reason}")

    def stop(self) -> None:
        """Stop all processes; another turn starts them again."""
        while self._workers:
            self._workers.popitem()[1].stop()

    def _start(self, contestant: Contestant, result: Result) -> Worker:
        python = self._python(contestant.environment)
        if contestant.environment:
            result["versions"] = versions(contestant.environment, python)
        worker = Worker(contestant, python, self._job, self._logs)
        self._workers[contestant.name] = worker
        self._ready(contestant.name, worker.ready(), result)
        return worker

    def _python(self, name: str | None) -> Path:
        """Return the interpreter of an environment. A failed creation is not repeated, because it may take minutes."""
        if name in self._unavailable:
            raise BenchmarkError(self._unavailable[name])
        try:
            return environment(name, self._environments)
        except BenchmarkError as failure:
            self._unavailable[name or ""] = str(failure)
            raise
