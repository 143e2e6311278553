"""Run GPT-NeoX-20B on a machine with 24 GiB: load it shard by shard, quantise it to 4 bits, and generate.

    python benchmarks/twenty_billion.py --directory DISK_WITH_50_GB --docs docs/benchmarks.md

No trained weights are needed: a checkpoint of the published size and format (46 shards, float16) is filled with
random numbers, used, and deleted. The script measures the load time, the peak resident memory, and, in turns, the
decode speed and the speed of memory reads. `--preset pythia-1b` runs the same with a small model, to try the script.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from machine import Machine, describe
from report import command_line, publish, spread, table
from workers import Contestant, Worker, log, stop_on_termination

from neolm.core.files import write_json
from neolm.models.config import DecoderConfig, decoder_config
from neolm.models.decoder import Decoder
from neolm.models.families import preset
from neolm.models.hf_config import hf_config
from neolm.models.hf_files import write_weights
from neolm.models.hf_names import published_tensors

DISK_BYTES = 50e9  # for 20 billion weights of two bytes, and a margin
RANDOM_VALUES = 2**26  # from which every tensor is filled


def main() -> None:
    arguments = parse()
    stop_on_termination()
    config = configuration(arguments.preset)
    free = shutil.disk_usage(arguments.directory).free
    if free < DISK_BYTES and arguments.preset == "gpt-neox-20b":
        raise SystemExit(
            f"{arguments.directory}: the checkpoint needs {DISK_BYTES / 1e9:.0f} GB, {free / 1e9:.0f} GB are free. "
            "Choose another disk: --directory DIR"
        )
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="checkpoint-") as folder:
        log(f"writing {arguments.preset} to {folder}")
        write_checkpoint(config, Path(folder))
        stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        measure(arguments, folder, stored)


def measure(arguments: argparse.Namespace, folder: str, stored: int) -> None:
    """Load the model, measure the decode speed in turns, and publish the results."""
    machine = Machine("cpu", "float32", arguments.threads, arguments.environments)
    job = {"threads": machine.threads, "path": folder, "quantize": arguments.quantize}
    worker = Worker(
        Contestant("neolm", "contestant_twenty_billion.py"),
        Path(sys.executable),
        job,
        arguments.environments / "logs",
    )
    try:
        loaded = worker.ready()
        turns = []
        for _ in range(arguments.rounds):
            machine.measure()
            turns.append(worker.run(arguments.tokens))
        machine.measure()
    finally:
        worker.stop()
    seconds = [second for turn in turns for second in turn["seconds"]]
    speeds = [1 / statistics.median(turn["seconds"]) for turn in turns]
    reads = [loaded["read"] * speed / 1e9 for speed in speeds]
    limits = [row["bandwidth"] / 1e9 for row in machine.measured]
    shares = [read / ((a + b) / 2) for read, a, b in zip(reads, limits, limits[1:], strict=False)]
    rows = [
        ("on disk, float16", f"{stored / 1e9:.1f} GB"),
        (f"weights in memory, {arguments.quantize}", f"{loaded['weights'] / 1e9:.1f} GB"),
        ("load and quantise", f"{loaded['load']:.0f} s"),
        ("peak resident memory", f"{turns[-1]['memory'] / 1e9:.1f} GB"),
        ("first token after a prompt of 16", f"{loaded['first']:.1f} s"),
        ("tokens/s", spread(speeds, 2)),
        ("weights read, GB/s", spread(reads, 1)),
        ("memory reads measured between the turns, GB/s", spread(limits, 1)),
        ("share of memory reads", spread(shares, 2)),
    ]
    text = "\n\n".join(
        [
            describe(machine.facts, machine.measured),
            table(("GPT-NeoX-20B" if arguments.preset == "gpt-neox-20b" else arguments.preset, ""), rows),
            f"`{command_line('twenty_billion')}`: {arguments.rounds} turns of {arguments.tokens} tokens, one sequence.",
        ]
    )
    machine.stop()
    results = {"loaded": loaded, "seconds": seconds, "machine": machine.measured, "turns": turns}
    publish("twenty billion", text, results, arguments.output, arguments.docs)


def configuration(name: str) -> DecoderConfig:
    """Return the configuration of a preset."""
    fields = preset(name)
    return decoder_config(fields.pop("family"), **fields)


def write_checkpoint(config: DecoderConfig, directory: Path) -> None:
    """Write a checkpoint in Hugging Face's format: float16, published names, shards."""
    values = torch.randn(RANDOM_VALUES, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    with torch.device("meta"):
        parameters = dict(Decoder(config).named_parameters())

    def fill() -> Iterator[tuple[str, torch.Tensor]]:
        start = 0
        for name, tensor in published_tensors(config, parameters):
            if tensor.dim() == 1:
                value = 0.0 if name.endswith("bias") else 1.0
                yield name, torch.full(tensor.shape, value, dtype=torch.float16)
                continue
            start = (start + 1_000_003) % RANDOM_VALUES
            repeats = -(-(tensor.numel() + start) // RANDOM_VALUES)
            yield name, values.repeat(repeats)[start : start + tensor.numel()].view(tensor.shape)

    write_weights(directory, fill(), max_shard_bytes=900_000_000)
    write_json(directory / "config.json", hf_config(config) | {"dtype": "float16", "torch_dtype": "float16"})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gpt-neox-20b")
    parser.add_argument("--quantize", default="int4", choices=["int4", "int8"])
    parser.add_argument(
        "--directory", type=Path, default=Path(tempfile.gettempdir()), help="directory of the checkpoint"
    )
    parser.add_argument("--tokens", type=int, default=12, help="per turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "neolm-benchmarks")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--docs", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
