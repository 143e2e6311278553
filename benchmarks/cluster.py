"""Compare the training speed of several processes on this machine with that of one, for small models.

    python benchmarks/cluster.py --rounds 3 --text ../shared/data/minipile/wikipedia_en.jsonl.zst

Each turn is `neolm pretrain` with 120 steps of the same batch: one process with two threads, two processes with one
thread each that both have the whole model, and two that share it. The first 40 steps are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import revision
from report import command_line, publish, ratio, spread, table
from workers import log

STEPS, WARMUP = 120, 40
SETTINGS = [f"pretrain.steps={STEPS}", "pretrain.log_every=20", "pretrain.validate_every=1000", "evaluate=null"]
SETTINGS += ["pretrain.warmup_steps=10", "pretrain.checkpoint_every=1000"]
MODELS = {
    "ALBERT of 1.5M (`albert-desk`)": ["albert-desk"],
    "GPT-Neo of the quickstart": ["quickstart"],
    "GPT-2 of 30M": [
        "quickstart",
        "model={family: gpt2, hidden_size: 512, num_layers: 6, num_heads: 8, max_position_embeddings: 256}",
        "pretrain.batch_size=16",
    ],
}
PLANS = {
    "one process": (1, 1),
    "two, each with the whole model": (2, 1),
    "two, which share the model": (2, 2),
}


def turn(recipe: list[str], output: Path, ranks: int, shard: int) -> float:
    """Tokens per second of a training, over all processes; its directory has what it is built from."""
    for name in ("pretrain", "model"):
        shutil.rmtree(output / name, ignore_errors=True)
    command = [sys.executable, "-m", "neolm"]
    if ranks > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += ["-m", "neolm"]
    command += ["pretrain", *recipe, *SETTINGS, f"output={output}", f"pretrain.parallel.shard={shard}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(2 // ranks)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    lines = (output / "pretrain" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["step"] > WARMUP and "loss" in row]
    return statistics.median(row["tokens_per_second"] for row in rows)


def measure(rounds: int, text: Path) -> dict[str, Any]:
    """Tokens per second by model and plan, one value a round."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (model, recipe) in enumerate(MODELS.items()):
            settings = [*recipe, f"corpus.path={text}"] if recipe[0] == "albert-desk" else recipe
            speeds: dict[str, list[float]] = {plan: [] for plan in PLANS}
            for _ in range(rounds):
                for plan, (ranks, shard) in PLANS.items():
                    speeds[plan].append(turn(settings, Path(folder) / str(number), ranks, shard))
                    log(f"{model}, {plan}: {speeds[plan][-1]:,.0f} tokens/s")
            found[model] = speeds
    return found


def section(results: dict[str, Any]) -> str:
    """The table, as Markdown."""
    rows = []
    for model, speeds in results["speeds"].items():
        first, *others = speeds.values()
        rows.append([model, spread(first), *(f"{spread(each)}; {ratio(each, first)}" for each in others)])
    text = table(["tokens/s", *PLANS], rows)
    return f"`{results['command']}`, revision {results['revision']}. Medians, and ratios to one process.\n\n{text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each plan (3)")
    parser.add_argument(
        "--text", type=Path, required=True, metavar="PLACE", help="text of several sentences a document"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    results = {"speeds": measure(options.rounds, options.text)}
    results |= {"command": command_line("cluster"), "revision": revision()}
    publish("cluster", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
