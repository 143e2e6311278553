"""Compare the training speed, MFU and peak memory of NeoLM, transformers, its Trainer, LitGPT and nanoGPT.

    python benchmarks/train_throughput.py --shapes 10m 125m --nanogpt ../nanoGPT

Every contestant trains the same shape on the same tokens in the same precision, with the same settings of AdamW and the
same clipping, in its own process. They take turns, A B C A B C ..., and sleep in between. The machine's peak speed is
measured in every round. Only ratios transfer to other machines and times; absolute numbers do not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from machine import Machine
from shapes import GRADIENT_CLIP, LEARNING_RATE, SHAPES, WEIGHT_DECAY, Shape
from training_speed import ShapeBenchmark, add_arguments, check_contestants, measure
from workers import Contestant


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["10m", "125m", "pythia-70m", "gpt2"])
    parser.add_argument("--nanogpt", type=Path, metavar="DIR", help="a checkout of karpathy/nanoGPT")
    add_arguments(parser)
    options = parser.parse_args()
    if options.nanogpt:
        options.nanogpt = options.nanogpt.resolve()
    known = {c.name for name in options.shapes for c in contestants(SHAPES[name], "bfloat16", None)}
    check_contestants(parser, options.contestants, known)

    def benchmark(name: str, machine: Machine) -> ShapeBenchmark:
        shape = SHAPES[name]
        return ShapeBenchmark(shape, contestants(shape, machine.precision, options.nanogpt), machine, options)

    measure("train_throughput", options, benchmark)


if __name__ == "__main__":
    main()
