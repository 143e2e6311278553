"""Compare the decode and prefill speed of NeoLM, transformers, llama.cpp and CTranslate2, with weights of 32 to 4 bits.

    python benchmarks/decode.py --rounds 7
    python benchmarks/decode.py --shapes 1.3b --tokens 32 --read 512 --rounds 3

All contestants continue the same prompts on a CPU with the same number of threads, each in its own process, which keeps
its model loaded. The models have published shapes and random weights, written once. Decode ("writing"): greedy, timed
from the first token to the last. Prefill ("reading"): timed from the prompt to its first token. For each workload the
contestants take turns, A B C A B C ..., and sleep in between. The machine's peak speeds (memory reads and matrix
products) are measured before each round. llama.cpp and CTranslate2 do not support GPT-Neo, only `gpt2` and the Pythias.
"""

from __future__ import annotations

import argparse
import functools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decode_report import section
from machine import Machine
from random_models import as_gguf, random_model
from report import command_line, publish
from shapes import SHAPES, Shape
from worker_pool import Result, WorkerPool
from workers import BenchmarkError, Contestant, Worker, log, stop_on_termination

# Bits per weight, including its share of the scale of its group.
BITS = {
    "neolm": {"float32": 32, "bfloat16": 16, "int8": 8.25, "int4": 4.25},
    "transformers": {"float32": 32, "bfloat16": 16},
    "llama.cpp": {"f32": 32, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5},
    "ctranslate2": {"float32": 32, "bfloat16": 16, "int8": 8},
}
# NeoLM's names for other tools' formats.
PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "q8_0": "int8", "q4_0": "int4"}
CEILINGS = ("bfloat16", "float32")  # of matrix products
OVERHEAD = 0.7e9  # upper bound on the bytes of a process without its weights


@dataclass(frozen=True)
class Workload:
    """Prefill of `texts` prompts of `length` tokens, and decode of `tokens` tokens for each (1: prefill only)."""

    texts: int
    length: int
    tokens: int

    @property
    def name(self) -> str:
        """Name in the results."""
        return f"read {self.length}" if self.tokens == 1 else f"write {self.texts}"

    def prompts(self, vocab_size: int) -> list[list[int]]:
        """Return random token ids, without the last id, which may be the end-of-text token."""
        source = random.Random(1)
        return [source.choices(range(vocab_size - 1), k=self.length) for _ in range(self.texts)]


def contestants(shape: Shape) -> list[Contestant]:
    """Return the contestants that support `shape`, one for each weight format."""
    peers = {
        "neolm": ("contestant_neolm_decode.py", None),
        "transformers": ("contestant_transformers_decode.py", "transformers"),
    }
    if shape.family != "gpt-neo":
        peers["llama.cpp"] = ("contestant_llama.py", "llama.cpp")
        peers["ctranslate2"] = ("contestant_ctranslate2.py", "ctranslate2")
    found = []
    for peer, (script, environment) in peers.items():
        for kind, bits in BITS[peer].items():
            precision = PRECISIONS.get(kind, kind)
            settings = {
                "peer": peer,
                "kind": kind,
                "precision": precision,
                "bits": bits,
                "dtype": precision if bits >= 16 else "float32",
                "quantize": None if bits >= 16 else precision,
            }
            found.append(Contestant(f"{peer}-{kind}", script, settings, environment))
    return found


def measure(shape: Shape, machine: Machine, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all rounds of one shape. A contestant that fails is left out; the others continue.

    Raises:
        BenchmarkError: no workload fits into the context, or the model cannot be written.
    """
    chosen = [one for one in contestants(shape) if not options.contestants or one.name in options.contestants]
    works = [Workload(texts, options.prompt, 1 + options.tokens) for texts in options.batches]
    works += [Workload(1, length, 1) for length in options.read]
    works = [work for work in works if work.length + work.tokens - 1 <= shape.context]
    if not works:
        raise BenchmarkError(
            f"{shape.name}: no workload fits into the context of {shape.context} tokens. "
            "Choose smaller --prompt, --tokens or --read"
        )
    directory = random_model(shape, options.models)
    job = {"model": str(directory), "threads": machine.threads, "max_new_tokens": options.tokens + 1}
    pool = WorkerPool(job, options.environments, f"decode/{shape.name}")
    began = len(machine.measured)
    free = machine.measure(*CEILINGS)["memory_available"]
    _exclude_unsupported(chosen, shape, free, directory, pool)
    try:
        for group in _groups(chosen, shape, free):
            resident = _memory_needed(group, shape) < 0.9 * free
            log(f"{shape.name}: {', '.join(one.name for one in group)}{'' if resident else ', one at a time'}")
            # One workload after the other, so that turns are close in time; all at once if models are loaded for each.
            batches = [[work] for work in works] if resident else [works]
            for number in range(1, options.rounds + 1):
                for batch in batches:
                    machine.measure(*CEILINGS)
                    for contestant in group:
                        pool.run_turn(
                            contestant, resident, functools.partial(_run_turn, number, batch, shape.vocab_size)
                        )
            pool.stop()
    finally:
        pool.stop()
    return {
        **shape.as_json(),
        "prompt": options.prompt,
        "tokens": options.tokens,
        "works": {work.name: [work.texts, work.length, work.tokens] for work in works},
        "measured": machine.measured[began:],
        "contestants": {
            contestant.name: {**contestant.settings, **pool.results[contestant.name]} for contestant in chosen
        },
    }


def _groups(chosen: list[Contestant], shape: Shape, free: float) -> list[list[Contestant]]:
    """Return groups of contestants that take turns: all, if they fit into memory; else float32 first, then the others.

    No reported ratio compares float32 with another precision.
    """
    if _memory_needed(chosen, shape) < 0.9 * free:
        return [chosen]
    float32 = [one for one in chosen if one.settings["precision"] == "float32"]
    return [group for group in (float32, [one for one in chosen if one not in float32]) if group]


def _memory_needed(group: list[Contestant], shape: Shape) -> float:
    """Return an upper bound on the bytes of memory of a group."""
    return sum(shape.parameters * contestant.settings["bits"] / 8 + OVERHEAD for contestant in group)


def _exclude_unsupported(
    chosen: list[Contestant], shape: Shape, free: float, directory: Path, pool: WorkerPool
) -> None:
    """Leave out contestants with too little memory or without a model file."""
    for contestant in chosen:
        needed = _memory_needed([contestant], shape)
        if needed > free:
            pool.fail(contestant.name, f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
        if contestant.settings["peer"] == "llama.cpp":
            try:
                as_gguf(directory)
            except BenchmarkError as failure:
                pool.fail(contestant.name, str(failure))


def _run_turn(number: int, works: list[Workload], vocab_size: int, worker: Worker, result: Result) -> None:
    """Run the workloads once on one contestant and add its times to `result`."""
    for work in works:
        answer = worker.request(do="generate", prompts=work.prompts(vocab_size), tokens=work.tokens)
        times = result.setdefault("times", {}).setdefault(work.name, {"reading": [], "decoding": []})
        times["reading"].append(answer["reading"])
        times["decoding"].append(answer["decoding"])
        result.setdefault("ids", {})[work.name] = answer["ids"]
        result["facts"] = answer["facts"]
        if work.tokens > 1:
            speed = work.texts * (work.tokens - 1) / answer["decoding"]
        else:
            speed = work.length / answer["reading"]
        log(f"  round {number}, {work.name}: {worker.name} {speed:,.1f} tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["125m", "gpt2", "pythia-160m"])
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="only these; default: all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns per contestant (5)")
    parser.add_argument("--prompt", type=int, default=64, metavar="T", help="tokens of each prompt (64)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="tokens to decode (128)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="B", help="batch sizes (1)")
    parser.add_argument(
        "--read", nargs="*", type=int, default=[512, 2048], metavar="T", help="prompt lengths for prefill"
    )
    parser.add_argument("--threads", type=int, help="threads per process; default: number of usable cores")
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="directory of the models; default: models/ in --environments"
    )
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    stop_on_termination()
    options.models = options.models or options.environments / "models"
    known = {contestant.name for name in options.shapes for contestant in contestants(SHAPES[name])}
    if unknown := set(options.contestants or ()) - known:
        parser.error(f"unknown contestant: {', '.join(sorted(unknown))}. These shapes have: {', '.join(sorted(known))}")
    machine = Machine("cpu", "auto", options.threads, options.environments)
    try:
        shapes = {name: measure(SHAPES[name], machine, options) for name in options.shapes}
    except BenchmarkError as failure:
        raise SystemExit(str(failure)) from None
    finally:
        machine.stop()
    every = [result.get("versions", {}) for shape in shapes.values() for result in shape["contestants"].values()]
    # The first package of an environment is the peer; CTranslate2's also contains transformers, for its converter.
    peers = dict(package for versions in every for package in [*versions.items()][:1])
    results = {
        "command": command_line("decode"),
        "machine": machine.facts,
        "measured": machine.measured,
        "versions": peers,
        "shapes": shapes,
    }
    publish("decode", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
