"""Measure how spinning OpenMP threads affect training speed, on an idle machine and next to another program.

    python benchmarks/thread_waiting.py

NeoLM trains the same shape in several processes, each with another spin count. The processes take turns, first on an
idle machine, then next to a program that keeps every core busy. Ratios compare tokens per second with the default of
libgomp, where threads spin 300,000 times before they sleep.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from data import write_random_tokens
from machine import Machine
from report import ratio, table
from shapes import SHAPES
from train_throughput import contestants
from training_speed import TOKENS
from worker_pool import Result, WorkerPool
from workers import Contestant, Worker, log, stop_on_termination

SPIN_SETTINGS = {
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"GOMP_SPINCOUNT": "0"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="10m", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps per turn")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"))
    options = parser.parse_args()
    stop_on_termination()
    machine, shape = Machine("auto", "auto", None, options.environments), SHAPES[options.shape]
    base = contestants(shape, machine.precision, None)[0]
    speeds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as data:
        write_random_tokens(Path(data), shape.vocab_size, TOKENS)
        job = {
            "shape": shape.as_json(),
            "device": machine.device,
            "precision": machine.precision,
            "threads": machine.threads,
            "warmup": shape.warmup,
            "data": data,
            "seed": 1,
        }
        pool = WorkerPool(job, options.environments, "waiting")
        try:
            for load in ("alone", "next to a busy program"):
                busy = [] if load == "alone" else [_start_busy_program() for _ in range(machine.threads)]
                try:
                    for number in range(options.rounds):
                        for name, variables in SPIN_SETTINGS.items():

                            def turn(worker: Worker, _: Result, name: str = name, load: str = load) -> None:
                                seconds = worker.run(options.steps)["seconds"]
                                speeds.setdefault(name, {}).setdefault(load, []).append(
                                    options.steps * shape.tokens / seconds
                                )

                            pool.run_turn(Contestant(name, base.script, base.settings, None, variables), True, turn)
                        log(f"round {number + 1} {load}")
                finally:
                    for process in busy:
                        process.kill()
        finally:
            pool.stop()
    loads = list(speeds["default"])
    rows = []
    for name, measured in speeds.items():
        row = [name]
        for load in loads:
            row += [f"{statistics.median(measured[load]):,.0f}", ratio(measured[load], speeds["default"][load])]
        rows.append(row)
    print(table(["threads", *(head for load in loads for head in (f"{load}, tokens/s", "ratio"))], rows))


def _start_busy_program() -> subprocess.Popen[bytes]:
    """Start a program that keeps one core busy."""
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


if __name__ == "__main__":
    main()
