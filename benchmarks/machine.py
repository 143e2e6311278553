"""Description and peak speeds of the machine, measured during the benchmark by contestant_machine.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from environments import environment
from report import spread
from workers import HERE, Contestant, Worker

Facts = dict[str, Any]


class Machine:
    """The machine of all contestants. `facts` are read once, `measure` is called in every round."""

    def __init__(self, device: str, precision: str, threads: int | None, environments: Path) -> None:
        self.threads = threads or usable_cores()
        job = {"device": device, "precision": precision, "threads": self.threads}
        contestant = Contestant("machine", "contestant_machine.py")
        self._worker = Worker(contestant, environment(None, environments), job, environments / "logs")
        self.facts: Facts = {**self._worker.ready(), "threads": self.threads, "revision": revision()}
        self.measured: list[dict[str, float]] = []

    @property
    def device(self) -> str:
        """Device of all contestants."""
        return str(self.facts["device"][0])

    @property
    def precision(self) -> str:
        """Precision of all contestants."""
        return str(self.facts["precision"][0])

    def measure(self, *precisions: str) -> dict[str, float]:
        """Measure memory reads and matrix products, also in `precisions`; append the result to `measured`."""
        self.measured.append(self._worker.request(do="measure", precisions=precisions))
        return self.measured[-1]

    def flops_per_token(self, shape: dict[str, Any]) -> float:
        """FLOPs of training on one token of a shape."""
        return float(self._worker.request(do="count", shape=shape)["flops"])

    def stop(self) -> None:
        """Stop the measuring process."""
        self._worker.stop()


def describe(facts: Facts, measured: list[dict[str, float]]) -> str:
    """Describe the machine in a paragraph of Markdown."""
    vectors = f" ({facts['vectors']})" if facts["vectors"] else ""
    precision, reason = facts["precision"]
    more = [key for key in (measured[0] if measured else {}) if key.startswith("flops_")]
    products = [f"{_giga(measured, key)} GFLOP/s in {key.removeprefix('flops_')}" for key in more]
    products = products or [f"{_giga(measured, 'flops')} GFLOP/s"]
    return (
        f"{facts['processor']}{vectors}, cores: {facts['cores']}, threads of each contestant: {facts['threads']}, "
        f"{facts['memory'] / 2**30:.0f} GiB; Python {facts['python']}, torch {facts['torch']}; "
        f"{precision}: {reason}. In the same run: products of 2,048 cubed {', '.join(products)}, memory reads "
        f"{_giga(measured, 'bandwidth')} GB/s. "
        f"NeoLM at revision {facts['revision']}."
    )


def _giga(measured: list[dict[str, float]], key: str) -> str:
    return spread([row[key] / 1e9 for row in measured]) if measured else "not measured"


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def revision() -> str:
    """The measured commit, and whether the checkout has uncommitted changes."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty=, changed", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
