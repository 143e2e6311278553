"""Compare the pretraining speed and peak memory of NeoLM and transformers for BERT and ALBERT.

    python benchmarks/encoders.py --text TEXT --shapes bert-desk albert-desk

TEXT is a file or a folder of texts, as `corpus.path` takes them. All contestants train the same models on the same
batches: masked tokens and pairs of segments with the lengths that the documents give. NeoLM runs its own training loop
and data pipeline. transformers gets the stored batches, padded, under autocast, eagerly or compiled by torch. Each step
has forward and backward pass, clipping and a step of AdamW. Speeds are in real tokens: padding does not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import Machine
from shapes import ENCODER_SHAPES, EncoderShape
from training_speed import ShapeBenchmark, add_arguments, check_contestants, measure
from workers import HERE, Contestant

CONTESTANTS = (
    Contestant("neolm", "contestant_encoder.py"),
    *(
        Contestant(name, "contestant_transformers_encoder.py", {"compile": compiled}, "transformers")
        for name, compiled in (("transformers", False), ("transformers-compiled", True))
    ),
)


class EncoderBenchmark(ShapeBenchmark):
    """Measure the contestants of one encoder on batches of real text."""

    def __init__(self, shape: EncoderShape, machine: Machine, options: argparse.Namespace) -> None:
        super().__init__(shape, CONTESTANTS, machine, options)
        self._store = options.environments / "encoder-data" / f"{options.text.name}-{shape.vocab_size}"
        self._tokens: list[int] = []

    def job(self, data: Path) -> dict[str, Any]:
        """The part of the job that all contestants share."""
        return {**super().job(data), "store": str(self._store.resolve())}

    def write_data(self, directory: Path) -> dict[str, Any]:
        """Write the shards, unless they are up to date, and the batches of all steps."""
        steps = self.shape.warmup + 1 + self.options.rounds * self.steps
        job = {**self.job(directory), "text": str(self.options.text.resolve()), "steps": steps}
        done = subprocess.run(
            [sys.executable, HERE / "encoder_data.py", json.dumps(job)], stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise SystemExit(f"{self.shape.name}: the data could not be made; the messages above say why")
        facts = json.loads((directory / "facts.json").read_text(encoding="utf-8"))
        self._tokens = facts["tokens"]
        per_step = sum(self._tokens) / len(self._tokens)
        facts["about_data"] = f" A step has {per_step:,.0f} real tokens on average, and {facts['padding']:.1%} padding."
        return dict(facts)

    def tokens(self, steps: range) -> int:
        """Number of real tokens of these steps, counted from 1."""
        return sum(self._tokens[step - 1] for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, metavar="TEXT", help="a text file or a folder of them")
    every = [name for name in ENCODER_SHAPES if name != "smoke"]
    parser.add_argument("--shapes", nargs="+", choices=ENCODER_SHAPES, default=every)
    add_arguments(parser)
    options = parser.parse_args()
    check_contestants(parser, options.contestants, {contestant.name for contestant in CONTESTANTS})
    measure("encoders", options, lambda name, machine: EncoderBenchmark(ENCODER_SHAPES[name], machine, options))


if __name__ == "__main__":
    main()
