"""Compare the training speed, MFU and peak memory of NeoLM, transformers, its Trainer, LitGPT and nanoGPT.

    python benchmarks/train_throughput.py --shapes 10m 125m --nanogpt ../nanoGPT

Every contestant trains the same shape on the same tokens in the same precision, with the same settings of AdamW and the
same clipping, in its own process. They take turns, A B C A B C ..., and sleep in between. The machine's peak speed is
measured in every round. Only ratios transfer to other machines and times; absolute numbers do not.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from pathlib import Path
from typing import Any

from data import write_random_tokens
from machine import Machine, describe
from report import command_line, publish, ratio, table
from shapes import GRADIENT_CLIP, LEARNING_RATE, SHAPES, WEIGHT_DECAY, Shape
from worker_pool import Result, WorkerPool
from workers import Contestant, Worker, log, stop_on_termination

TOKENS = 2**21  # in the training file


def contestants(shape: Shape, precision: str, nanogpt: Path | None) -> list[Contestant]:
    """Return the contestants that support `shape`."""
    pretrain = {
        "steps": 10**9,  # the gate ends the training
        "schedule": "constant",
        "warmup_steps": 0,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "gradient_clip": GRADIENT_CLIP,
    }
    found = [
        Contestant(name, "contestant_neolm.py", {"pretrain": {**pretrain, "compile": compiled}})
        for name, compiled in (("neolm", False), ("neolm-compiled", True))
    ]
    plain = {"loop": "plain", "weights": "float32", "compile": False}
    peers = {
        "transformers": plain,
        "transformers-compiled": {**plain, "compile": True},
        "transformers-trainer": {**plain, "loop": "trainer"},
    }
    if precision == "bfloat16":
        peers["transformers-bf16-weights"] = {**plain, "weights": "bfloat16"}
    script = "contestant_transformers.py"
    found += [Contestant(name, script, settings, "transformers") for name, settings in peers.items()]
    if shape.family == "gpt-neox":
        for name, compiled in (("litgpt", False), ("litgpt-compiled", True)):
            found.append(Contestant(name, "contestant_litgpt.py", {"compile": compiled}, "litgpt"))
    if shape.family == "gpt2":
        for name, compiled in (("nanogpt", False), ("nanogpt-compiled", True)):
            settings = {"checkout": str(nanogpt) if nanogpt else "", "arguments": nanogpt_arguments(shape, compiled)}
            found.append(Contestant(name, "contestant_nanogpt.py", settings))
    return found


def nanogpt_arguments(shape: Shape, compiled: bool) -> list[str]:
    """Return the command line of nanoGPT's train.py for `shape`, without evaluation and checkpoints."""
    settings = {
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "n_embd": shape.hidden_size,
        "block_size": shape.sequence_length,
        "batch_size": shape.batch_size,
        "gradient_accumulation_steps": 1,
        "bias": True,
        "dropout": 0.0,
        "learning_rate": LEARNING_RATE,
        "decay_lr": False,
        "weight_decay": WEIGHT_DECAY,
        "grad_clip": GRADIENT_CLIP,
        "max_iters": 10**9,
        "eval_interval": 10**9,
        "eval_iters": 1,
        "always_save_checkpoint": False,
        "log_interval": 10,
        "compile": compiled,
    }
    return [f"--{key}={value}" for key, value in settings.items()]


class ShapeBenchmark:
    """Measure the contestants of one shape, which take turns."""

    def __init__(self, shape: Shape, machine: Machine, options: argparse.Namespace) -> None:
        self.shape, self.machine, self.options = shape, machine, options
        self.steps = options.steps or shape.steps
        self._data_wait: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Measure all rounds. A contestant that fails is left out; the others continue."""
        shape, machine = self.shape, self.machine
        names = self.options.contestants
        available = contestants(shape, machine.precision, self.options.nanogpt)
        chosen = [contestant for contestant in available if not names or contestant.name in names]
        machine.measure()
        needed, free = shape.memory(), int(machine.measured[-1]["memory_available"])
        resident = needed * len(chosen) < 0.9 * free
        log(f"{shape.name}: {len(chosen)} contestants, {self.options.rounds} rounds of {self.steps} steps")
        with tempfile.TemporaryDirectory(prefix="benchmark-") as data:
            write_random_tokens(Path(data), shape.vocab_size, TOKENS)
            pool = WorkerPool(self._common_job(Path(data)), self.options.environments, shape.name, self._ready)
            for contestant in chosen:
                if needed > free:
                    pool.fail(contestant.name, f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
                if contestant.settings.get("checkout") == "":
                    pool.fail(contestant.name, "needs a checkout of karpathy/nanoGPT: --nanogpt DIR")
            try:
                for number in range(1, self.options.rounds + 1):
                    machine.measure()
                    for contestant in chosen:
                        pool.run_turn(contestant, resident, functools.partial(self._run_turn, number))
            finally:
                pool.stop()
        empty = {"seconds": [], "processor_seconds": [], "memory": 0}
        return {
            **shape.as_json(),
            "steps_of_a_turn": self.steps,
            "flops_per_token": machine.flops_per_token(shape.as_json()),
            "contestants": {name: {**empty, **result} for name, result in pool.results.items()},
        }

    def _common_job(self, data: Path) -> dict[str, Any]:
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

    def _run_turn(self, number: int, worker: Worker, result: Result) -> None:
        """Run one turn of one contestant and add the measurements to `result`."""
        answer = worker.run(self.steps)
        for key in ("seconds", "processor_seconds"):
            result.setdefault(key, []).append(answer[key])
        if answer["waited"] is not None:
            result["waited"] = result.get("waited", 0.0) + answer["waited"] - self._data_wait[worker.name]
            self._data_wait[worker.name] = answer["waited"]
        result["memory"] = max(result.get("memory", 0), answer["memory"])
        speed = self.steps * self.shape.tokens / answer["seconds"]
        log(f"  round {number}: {worker.name} {speed:,.0f} tokens/s")


def section(results: dict[str, Any], reference: str) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    peak_flops = statistics.median(row["flops"] for row in results["measured"])
    parts = [describe(results["machine"], results["measured"])]
    if results["versions"]:
        parts[0] += " Peers: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."
    for shape in results["shapes"].values():
        measured = {name: result for name, result in shape["contestants"].items() if result["seconds"]}
        tokens = shape["steps_of_a_turn"] * shape["batch_size"] * shape["sequence_length"]
        speeds = {name: [tokens / seconds for seconds in result["seconds"]] for name, result in measured.items()}
        on_cpu = results["machine"]["device"][0] == "cpu"
        rows = []
        for name, series in speeds.items():
            median = statistics.median(series)
            speedup = ratio(speeds[reference], series) if reference in speeds else "-"
            memory = f"{measured[name]['memory'] / 1e9:.2f}"
            mfu = f"{median * shape['flops_per_token'] / peak_flops:.0%}"
            row = [name, f"{median:,.0f}", "1" if name == reference else speedup]
            if on_cpu:
                row.append(processor_time(measured, reference, name))
            rows.append([*row, mfu, memory])
        checkpointing = ", activation checkpointing" if shape["activation_checkpointing"] else ""
        sizes = sorted({result["parameters"] for result in measured.values()}) or [SHAPES[shape["name"]].parameters]
        parameters = " to ".join(f"{size / 1e6:,.1f}" for size in (sizes[:1] + sizes[1:][-1:]))
        parts.append(
            f"**`{shape['name']}`**: {shape['family']}, {shape['num_layers']} layers of {shape['hidden_size']}, "
            f"vocabulary {shape['vocab_size']:,}, {parameters} million parameters; {shape['batch_size']} x "
            f"{shape['sequence_length']:,} tokens per step{checkpointing}; {shape['steps_of_a_turn']} steps per turn."
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


def processor_time(measured: dict[str, Any], reference: str, name: str) -> str:
    """Format the ratio of a contestant's processor time, summed over the cores, to the reference's."""
    if name == reference or reference not in measured:
        return "1" if name == reference else "-"
    theirs, ours = (statistics.median(measured[one]["processor_seconds"]) for one in (name, reference))
    return f"{theirs / ours:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["10m", "125m", "pythia-70m", "gpt2"])
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="only these; default: all")
    parser.add_argument(
        "--reference", default="neolm", metavar="NAME", help="contestant that the ratios refer to (neolm)"
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns per contestant (5)")
    parser.add_argument("--steps", type=int, metavar="K", help="optimiser steps per turn; default: those of the shape")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, help="threads per process; default: number of usable cores")
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    stop_on_termination()
    if options.nanogpt:
        options.nanogpt = options.nanogpt.resolve()
    known = {c.name for name in options.shapes for c in contestants(SHAPES[name], "bfloat16", None)}
    if unknown := set(options.contestants or ()) - known:
        parser.error(f"unknown contestant: {', '.join(sorted(unknown))}. These shapes have: {', '.join(sorted(known))}")
    machine = Machine(options.device, options.precision, options.threads, options.environments)
    try:
        shapes = {name: ShapeBenchmark(SHAPES[name], machine, options).run() for name in options.shapes}
    finally:
        machine.stop()
    every = [result for shape in shapes.values() for result in shape["contestants"].values()]
    results = {
        "command": command_line("train_throughput"),
        "machine": machine.facts,
        "measured": machine.measured,
        "versions": {name: version for result in every for name, version in result.get("versions", {}).items()},
        "shapes": shapes,
    }
    publish("train_throughput", section(results, options.reference), results, options.output, options.docs)


if __name__ == "__main__":
    main()
