"""Contestants that take turns: each starts when its first turn comes; one that fails is left out, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from environments import environment, versions
from workers import Contestant, Failed, Worker, note

Result = dict[str, Any]


class Turns:
    """The contestants' processes, and what is known of each by name: `results`, where a failed one has "failed"."""

    def __init__(
        self,
        job: Mapping[str, Any],
        environments: Path,
        logs: str,
        ready: Callable[[str, Result, Result], None] = lambda name, answer, result: None,
    ) -> None:
        """Start nothing yet.

        Args:
            job: What every contestant is told.
            environments: Where the peers' environments are, or are to be.
            logs: The folder, below the logs there, of what the contestants write.
            ready: Takes a contestant's name, its first answer, and its result.
        """
        self.results: dict[str, Result] = {}
        self._job, self._environments, self._ready = job, environments, ready
        self._logs = environments / "logs" / logs
        self._workers: dict[str, Worker] = {}
        self._missing: dict[str, str] = {}  # why an environment cannot be had

    def take(self, contestant: Contestant, stays: bool, turn: Callable[[Worker, Result], None]) -> None:
        """Give `contestant` a turn, unless it has failed before; `stays` keeps its process for the next."""
        name = contestant.name
        result = self.results.setdefault(name, {})
        if "failed" in result:
            return
        try:
            turn(self._workers.get(name) or self._start(contestant, result), result)
        except Failed as failure:
            self.fail(name, str(failure))
        if not stays or "failed" in result:
            worker = self._workers.pop(name, None)
            if worker:
                worker.stop()

    def fail(self, name: str, reason: str) -> None:
        """Leave a contestant out from now on."""
        result = self.results.setdefault(name, {})
        if "failed" not in result:
            result["failed"] = reason
            note(f"  {name}: left out: {reason}")

    def stop(self) -> None:
        """End all processes; another turn starts them anew."""
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
        """The interpreter of an environment; what failed once is not tried again, for it may take minutes."""
        if name in self._missing:
            raise Failed(self._missing[name])
        try:
            return environment(name, self._environments)
        except Failed as failure:
            self._missing[name or ""] = str(failure)
            raise
