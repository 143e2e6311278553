"""Compare trainings in two processes of NeoLM, torch's own FSDP2 and accelerate, on this machine.

    python benchmarks/cluster_peers.py --rounds 3

A GPT-2 of 23M parameters in float32, 8 sequences of 128 tokens a step, two processes with one thread each. Peers take
turns. The cost of a checkpoint is what a training with one every sixth step takes longer, over their number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from environments import environment
from machine import revision
from report import command_line, publish, ratio, spread, table
from workers import BenchmarkError, log

HERE = Path(__file__).parent
PEERS = {
    "neolm": ("NeoLM, each with the whole model", None),
    "accelerate": ("accelerate (DDP)", "transformers"),
    "neolm sharded": ("NeoLM, `shard=2`", None),
    "fsdp2": ("torch's FSDP2", "transformers"),
}
COMPARED = (("neolm", "accelerate"), ("neolm sharded", "fsdp2"))


def turn(peer: str, root: Path) -> dict[str, float]:
    """Seconds of a step and of a checkpoint."""
    python = environment(PEERS[peer][1], root)
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += [str(HERE / "contestant_ranks.py"), peer, folder]
        variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    lines = [line for line in ended.stdout.splitlines() if line.startswith("result ")]
    if not lines:
        raise BenchmarkError(f"{peer}: {ended.stderr[-2000:]}")
    found: dict[str, float] = json.loads(lines[0].removeprefix("result "))
    log(f"{peer}: {found['step']:.2f} s a step, {found['checkpoint']:.2f} s a checkpoint")
    return found


def section(results: dict[str, Any]) -> str:
    """The table, as Markdown."""
    turns, rows = results["turns"], []
    for ours, theirs in COMPARED:
        for peer in (ours, theirs):
            row = [PEERS[peer][0]]
            for quantity in ("step", "checkpoint"):
                own, other = ([turn[quantity] for turn in turns[name]] for name in (peer, theirs))
                row.append(spread(own, 2) + (f"; {ratio(own, other)}" if peer == ours else ""))
            rows.append(row)
    text = table(["seconds", "a step", "a checkpoint"], rows)
    return f"`{results['command']}`, revision {results['revision']}. Medians, and ratios to the peer below.\n\n{text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each peer (3)")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR", help="of the peers")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    turns: dict[str, list[dict[str, float]]] = {peer: [] for peer in PEERS}
    for _ in range(options.rounds):
        for peer in PEERS:
            turns[peer].append(turn(peer, options.environments))
    results = {"turns": turns, "command": command_line("cluster_peers"), "revision": revision()}
    publish("cluster-peers", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
