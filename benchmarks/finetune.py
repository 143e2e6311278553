"""Compare the speed of fine-tuning a classifier with NeoLM and with the Trainer of transformers.

    python benchmarks/finetune.py --model MODEL --data short=train.csv long=reviews.jsonl

MODEL is the directory of a BERT, such as all-MiniLM-L6-v2. Each --data names a table with the columns of --text-column
and --label-column. All contestants train all weights of the model on the same token ids, in shuffled batches of
--batch-size examples, with dropout, clipping and AdamW. NeoLM runs its own training loop and data pipeline, also with
frozen embeddings. Trainer runs with bfloat16 and fused AdamW: `trainer` pads a batch to its longest text,
`trainer-padded` pads all texts to 128 tokens, or to --max-length if that is less, as the run_glue example of
transformers does by default; it cuts longer texts. Speeds are in examples, which padding does not change.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from machine import Machine, describe
from report import command_line, publish, ratio, table
from training_speed import add_arguments, check_contestants, processor_time
from worker_pool import Result, WorkerPool
from workers import HERE, Contestant, Worker, log, stop_on_termination

CONTESTANTS = (
    Contestant("neolm", "contestant_finetune.py"),
    Contestant("neolm-frozen-embeddings", "contestant_finetune.py", {"finetune": {"frozen_layers": 0}}),
    Contestant("trainer", "contestant_trainer_finetune.py", {"padding": None}, "transformers"),
    Contestant("trainer-padded", "contestant_trainer_finetune.py", {"padding": 128}, "transformers"),
)


def measure(name: str, file: str, machine: Machine, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all rounds on one table."""
    chosen = [one for one in CONTESTANTS if not options.contestants or one.name in options.contestants]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        job = {
            "model": str(options.model.resolve()),
            "data": folder,
            "table": str(Path(file).resolve()),
            **{key: getattr(options, key) for key in ("text_column", "label_column", "max_length", "batch_size")},
            "device": machine.device,
            "precision": machine.precision,
            "threads": machine.threads,
            "warmup": 3,
            "seed": 1,
        }
        done = subprocess.run(
            [sys.executable, HERE / "finetune_data.py", json.dumps(job)], stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise SystemExit(f"{name}: the data could not be made; the messages above say why")
        facts = json.loads((Path(folder) / "facts.json").read_text(encoding="utf-8"))
        log(f"{name}: {len(chosen)} contestants, {options.rounds} rounds of {options.steps} steps")
        pool = WorkerPool(
            job,
            options.environments,
            f"finetune-{name}",
            lambda _, answer, result: result.update(parameters=answer["parameters"]),
        )
        try:
            for number in range(1, options.rounds + 1):
                machine.measure()
                for contestant in chosen:

                    def turn(worker: Worker, result: Result, number: int = number) -> None:
                        answer = worker.run(options.steps)
                        answer["tokens"] = options.steps * options.batch_size  # examples
                        for key in ("seconds", "processor_seconds", "tokens"):
                            result.setdefault(key, []).append(answer[key])
                        result["memory"] = max(result.get("memory", 0), answer["memory"])
                        log(f"  round {number}: {worker.name} {answer['tokens'] / answer['seconds']:,.1f} examples/s")

                    pool.run_turn(contestant, True, turn)
        finally:
            pool.stop()
    empty: Result = {"seconds": [], "processor_seconds": [], "tokens": [], "memory": 0}
    return {**facts, "contestants": {key: {**empty, **result} for key, result in pool.results.items()}}


def section(results: Mapping[str, Any], reference: str) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [describe(results["machine"], results["measured"]) + (f" Peers: {versions}." if versions else "")]
    for name, found in results["tables"].items():
        measured = {key: result for key, result in found["contestants"].items() if result["seconds"]}
        speeds = {
            key: [n / seconds for n, seconds in zip(result["tokens"], result["seconds"], strict=True)]
            for key, result in measured.items()
        }
        rows = [
            [
                key,
                f"{statistics.median(series):,.1f}",
                "1" if key == reference else ratio(speeds[reference], series) if reference in speeds else "-",
                processor_time(measured, reference, key),
                f"{measured[key]['memory'] / 1e9:.2f}",
            ]
            for key, series in speeds.items()
        ]
        parts.append(
            f"**`{name}`**: {found['examples']:,} texts of {found['mean_tokens']:.0f} tokens on average, at most "
            f"{found['longest']}; {found['labels']} labels; batches of {results['batch_size']}, which padded to the "
            f"longest text have {found['padding']:.0%} padding; {results['steps']} steps a turn."
        )
        header = ["contestant", "examples/s", f"speedup of {reference}", "by processor time", "peak memory, GB"]
        parts.append(table(header, rows) if rows else "Nothing was measured.")
        if left_out := [f"{n} ({r['failed']})" for n, r in found["contestants"].items() if "failed" in r]:
            parts.append("Left out: " + "; ".join(left_out) + ".")
    return "\n\n".join([*parts, f"Made by `{results['command']}`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="MODEL", help="directory of a BERT")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FILE", help="tables of examples, with a name")
    parser.add_argument("--text-column", default="text", metavar="C")
    parser.add_argument("--label-column", default="label", metavar="C")
    parser.add_argument(
        "--max-length", type=int, default=256, metavar="T", help="texts are cut to so many tokens (256)"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="B", help="examples of a step (32)")
    add_arguments(parser)
    parser.set_defaults(steps=5, rounds=5)
    options = parser.parse_args()
    check_contestants(parser, options.contestants, {one.name for one in CONTESTANTS})
    if wrong := [given for given in options.data if "=" not in given]:
        parser.error(f"--data {wrong[0]}: give NAME=FILE")
    stop_on_termination()
    machine = Machine(options.device, options.precision, options.threads, options.environments)
    try:
        tables = {
            name: measure(name, file, machine, options) for name, _, file in (d.partition("=") for d in options.data)
        }
    finally:
        machine.stop()
    every = [result for found in tables.values() for result in found["contestants"].values()]
    results = {
        "command": command_line("finetune"),
        "machine": machine.facts,
        "measured": machine.measured,
        "versions": {name: version for result in every for name, version in result.get("versions", {}).items()},
        "batch_size": options.batch_size,
        "steps": options.steps,
        "tables": tables,
    }
    publish("finetune", section(results, options.reference), results, options.output, options.docs)


if __name__ == "__main__":
    main()
