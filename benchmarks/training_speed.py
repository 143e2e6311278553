"""Training speed, MFU and peak memory of contestants that train one shape in turn, and the report of it."""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import write_random_tokens
from machine import Machine, describe
from report import command_line, publish, ratio, table
from shapes import Shape
from worker_pool import Result, WorkerPool
from workers import Contestant, Worker, log, stop_on_termination

TOKENS = 2**21  # in the training file


class ShapeBenchmark:
    """Measure the contestants of one shape, which take turns."""

    def __init__(
        self, shape: Shape, contestants: Sequence[Contestant], machine: Machine, options: argparse.Namespace
    ) -> None:
        self.shape, self.machine, self.options = shape, machine, options
        self.steps = options.steps or shape.steps
        self._contestants = [one for one in contestants if not options.contestants or one.name in options.contestants]
        self._data_wait: dict[str, float] = {}
        self._steps_done: dict[str, int] = {}

    def write_data(self, directory: Path) -> dict[str, Any]:
        """Write the data that all contestants train on, and return facts about it for the report."""
        write_random_tokens(directory, self.shape.vocab_size, TOKENS)
        return {"flops_per_token": self.machine.flops_per_token(self.shape.as_json())}

    def tokens(self, steps: range) -> int:
        """Number of tokens of these steps, counted from 1."""
        return len(steps) * self.shape.tokens

    def run(self) -> dict[str, Any]:
        """Measure all rounds. A contestant that fails is left out; the others continue."""
        shape, machine = self.shape, self.machine
        machine.measure()
        needed, free = shape.memory(), int(machine.measured[-1]["memory_available"])
        resident = needed * len(self._contestants) < 0.9 * free
        log(f"{shape.name}: {len(self._contestants)} contestants, {self.options.rounds} rounds of {self.steps} steps")
        with tempfile.TemporaryDirectory(prefix="benchmark-") as data:
            facts = self.write_data(Path(data))
            pool = WorkerPool(self.job(Path(data)), self.options.environments, shape.name, self._ready)
            for contestant in self._contestants:
                if needed > free:
                    pool.fail(contestant.name, f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
                if contestant.settings.get("checkout") == "":
                    pool.fail(contestant.name, "needs a checkout of karpathy/nanoGPT: --nanogpt DIR")
            try:
                for number in range(1, self.options.rounds + 1):
                    machine.measure()
                    for contestant in self._contestants:
                        pool.run_turn(contestant, resident, functools.partial(self._run_turn, number))
            finally:
                pool.stop()
        empty = {"seconds": [], "processor_seconds": [], "tokens": [], "memory": 0}
        return {
            **shape.as_json(),
            **facts,
            "title": shape.title,
            "expected_parameters": shape.parameters,
            "steps_of_a_turn": self.steps,
            "contestants": {name: {**empty, **result} for name, result in pool.results.items()},
        }

    def job(self, data: Path) -> dict[str, Any]:
        """The part of the job that all contestants share."""
        return {
            "shape": self.shape.as_json(),
            "device": self.machine.device,
            "precision": self.machine.precision,
            "threads": self.machine.threads,
            "warmup": self.shape.warmup,
            "data": str(data),
            "seed": 1,
        }

    def _ready(self, name: str, answer: Result, result: Result) -> None:
        result.update(parameters=answer["parameters"], warmup_seconds=answer["seconds"])
        self._data_wait[name] = answer["waited"]
        self._steps_done[name] = self.shape.warmup + 1  # `Gate` answers when the gradient of one more is there

    def _run_turn(self, number: int, worker: Worker, result: Result) -> None:
        """Run one turn of one contestant and add the measurements to `result`."""
        answer = worker.run(self.steps)
        done = self._steps_done[worker.name]
        self._steps_done[worker.name] += self.steps
        answer["tokens"] = self.tokens(range(done + 1, done + self.steps + 1))
        for key in ("seconds", "processor_seconds", "tokens"):
            result.setdefault(key, []).append(answer[key])
        if answer["waited"] is not None:
            result["waited"] = result.get("waited", 0.0) + answer["waited"] - self._data_wait[worker.name]
            self._data_wait[worker.name] = answer["waited"]
        result["memory"] = max(result.get("memory", 0), answer["memory"])
        log(f"  round {number}: {worker.name} {answer['tokens'] / answer['seconds']:,.0f} tokens/s")


def section(results: Mapping[str, Any], reference: str) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    peak_flops = statistics.median(row["flops"] for row in results["measured"])
    parts = [describe(results["machine"], results["measured"])]
    if results["versions"]:
        parts[0] += " Peers: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."
    for shape in results["shapes"].values():
        measured = {name: result for name, result in shape["contestants"].items() if result["seconds"]}
        speeds = {
            name: [tokens / seconds for tokens, seconds in zip(result["tokens"], result["seconds"], strict=True)]
            for name, result in measured.items()
        }
        on_cpu = results["machine"]["device"][0] == "cpu"
        rows = []
        for name, series in speeds.items():
            median = statistics.median(series)
            row = [name, f"{median:,.0f}", "1"]
            if name != reference:
                row[2] = ratio(speeds[reference], series) if reference in speeds else "-"
            if on_cpu:
                row.append(processor_time(measured, reference, name))
            row.append(f"{median * shape['flops_per_token'] / peak_flops:.0%}")
            rows.append([*row, f"{measured[name]['memory'] / 1e9:.2f}"])
        sizes = sorted({result["parameters"] for result in measured.values()}) or [shape["expected_parameters"]]
        parameters = " to ".join(f"{size / 1e6:,.1f}" for size in (sizes[:1] + sizes[1:][-1:]))
        parts.append(
            f"**`{shape['name']}`**: {shape['title']}, {parameters} million parameters; "
            f"{shape['steps_of_a_turn']} steps per turn.{shape.get('about_data', '')}"
        )
        header = ["contestant", "tokens/s", f"speedup of {reference}", *(["by processor time"] if on_cpu else [])]
        header += ["MFU", "peak memory, GB"]
        parts.append(table(header, rows) if rows else "Nothing was measured.")
        waited = [f"{n} {r['waited'] / sum(r['seconds']):.1%}" for n, r in measured.items() if "waited" in r]
        if waited:
            parts.append(f"Share of the time spent waiting for data: {', '.join(waited)}.")
        left_out = [f"{n} ({r['failed']})" for n, r in shape["contestants"].items() if "failed" in r]
        if left_out:
            parts.append("Left out: " + "; ".join(left_out) + ".")
    parts.append(f"Made by `{results['command']}`.")
    return "\n\n".join(parts)


def processor_time(measured: Mapping[str, Any], reference: str, name: str) -> str:
    """Format the ratio of a contestant's processor time per token, summed over the cores, to the reference's."""
    if name == reference or reference not in measured:
        return "1" if name == reference else "-"
    theirs, ours = (
        statistics.median(a / b for a, b in zip(one["processor_seconds"], one["tokens"], strict=True))
        for one in (measured[name], measured[reference])
    )
    return f"{theirs / ours:.2f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that the benchmarks of training speed share."""
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="only these; default: all")
    parser.add_argument(
        "--reference", default="neolm", metavar="NAME", help="contestant that the ratios refer to (neolm)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns per contestant (5)")
    parser.add_argument("--steps", type=int, metavar="K", help="optimiser steps per turn; default: those of the shape")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, help="threads per process; default: number of usable cores")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")


def check_contestants(parser: argparse.ArgumentParser, wanted: Sequence[str] | None, known: set[str]) -> None:
    """End with an error if `wanted` has a name that is not `known`."""
    if unknown := set(wanted or ()) - known:
        parser.error(f"unknown contestant: {', '.join(sorted(unknown))}. These shapes have: {', '.join(sorted(known))}")


def measure(name: str, options: argparse.Namespace, benchmark: Callable[[str, Machine], ShapeBenchmark]) -> None:
    """Measure the shapes of `options.shapes`, each with `benchmark(shape, machine)`, and publish the section `name`."""
    stop_on_termination()
    machine = Machine(options.device, options.precision, options.threads, options.environments)
    try:
        shapes = {shape: benchmark(shape, machine).run() for shape in options.shapes}
    finally:
        machine.stop()
    every = [result for shape in shapes.values() for result in shape["contestants"].values()]
    results = {
        "command": command_line(name),
        "machine": machine.facts,
        "measured": machine.measured,
        "versions": {name: version for result in every for name, version in result.get("versions", {}).items()},
        "shapes": shapes,
    }
    publish(name, section(results, options.reference), results, options.output, options.docs)
