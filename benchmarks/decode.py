"""How fast NeoLM writes and reads, beside transformers, llama.cpp and CTranslate2, with weights of 32 to 4 bits.

    python benchmarks/decode.py --rounds 7
    python benchmarks/decode.py --shapes 1.3b --tokens 32 --read 512 --rounds 3

Everybody continues the same prompts, on a CPU, with the same number of threads, in a process of its own that keeps its
model. The models have published shapes and random weights, written once. Writing: greedy decoding, timed from the first
token to the last. Reading: from the prompt to its first token. For each of these all take turns, A B C A B C ..., and
sleep in between; the machine's ceilings, memory reads and matrix products, are measured before each turn of all.
llama.cpp and CTranslate2 know no GPT-Neo: they come in with `gpt2` and the Pythias.
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
from turns import Result, Turns
from workers import Contestant, Failed, Worker, note, stop_on_termination

# Bits of a weight, with its share of the scale of its group.
BITS = {
    "neolm": {"float32": 32, "bfloat16": 16, "int8": 8.25, "int4": 4.25},
    "transformers": {"float32": 32, "bfloat16": 16},
    "llama.cpp": {"f32": 32, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5},
    "ctranslate2": {"float32": 32, "bfloat16": 16, "int8": 8},
}
SAME = {"f32": "float32", "bf16": "bfloat16", "q8_0": "int8", "q4_0": "int4"}  # as others call it
CEILINGS = ("bfloat16", "float32")  # of matrix products
OVERHEAD = 0.7e9  # bytes of a process beside its weights, upwards


@dataclass(frozen=True)
class Work:
    """What is measured in one turn: texts of `length` tokens read, and `tokens` tokens of each written (1: none)."""

    texts: int
    length: int
    tokens: int

    @property
    def name(self) -> str:
        """In the results."""
        return f"read {self.length}" if self.tokens == 1 else f"write {self.texts}"

    def prompts(self, vocab_size: int) -> list[list[int]]:
        """Token ids at random; the last, which may end a text, is not among them."""
        source = random.Random(1)
        return [source.choices(range(vocab_size - 1), k=self.length) for _ in range(self.texts)]


def contestants(shape: Shape) -> list[Contestant]:
    """Everybody who can run `shape`; whose precision and bits of a weight are among their settings."""
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
            precision = SAME.get(kind, kind)
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
    """Measure all rounds of one shape; a contestant that fails is noted, and the others go on.

    Raises:
        Failed: there is nothing to measure, or no model can be written.
    """
    chosen = [who for who in contestants(shape) if not options.contestants or who.name in options.contestants]
    works = [Work(texts, options.prompt, 1 + options.tokens) for texts in options.batches]
    works += [Work(1, length, 1) for length in options.read]
    works = [work for work in works if work.length + work.tokens - 1 <= shape.context]
    if not works:
        raise Failed(f"{shape.name}: its context of {shape.context} tokens has no room for any of this")
    place = random_model(shape, options.models)
    job = {"model": str(place), "threads": machine.threads, "room": options.tokens + 1}
    turns = Turns(job, options.environments, f"decode/{shape.name}")
    began = len(machine.measured)
    free = machine.measure(*CEILINGS)["memory_available"]
    _check(chosen, shape, free, place, turns)
    try:
        for group in _groups(chosen, shape, free):
            resident = _need(group, shape) < 0.9 * free
            note(f"{shape.name}: {', '.join(who.name for who in group)}{'' if resident else ', one at a time'}")
            # One kind of work after the other, as close together as can be; but not with a model to load for each.
            batches = [[work] for work in works] if resident else [works]
            for number in range(1, options.rounds + 1):
                for batch in batches:
                    machine.measure(*CEILINGS)
                    for who in group:
                        turns.take(who, resident, functools.partial(_turn, number, batch, shape.vocab_size))
            turns.stop()
    finally:
        turns.stop()
    return {
        **shape.as_json(),
        "prompt": options.prompt,
        "tokens": options.tokens,
        "works": {work.name: [work.texts, work.length, work.tokens] for work in works},
        "measured": machine.measured[began:],
        "contestants": {who.name: {**who.settings, **turns.results[who.name]} for who in chosen},
    }


def _groups(chosen: list[Contestant], shape: Shape, free: float) -> list[list[Contestant]]:
    """Those who take turns: all, if they fit into memory together; else those of float32, then the others.

    No ratio is of one of float32 and one of another precision.
    """
    if _need(chosen, shape) < 0.9 * free:
        return [chosen]
    whole = [who for who in chosen if who.settings["precision"] == "float32"]
    return [group for group in (whole, [who for who in chosen if who not in whole]) if group]


def _need(group: list[Contestant], shape: Shape) -> float:
    """Bytes that they take together, upwards."""
    return sum(shape.parameters * who.settings["bits"] / 8 + OVERHEAD for who in group)


def _check(chosen: list[Contestant], shape: Shape, free: float, place: Path, turns: Turns) -> None:
    """Leave out those who cannot start: too little memory, or no file for them."""
    for who in chosen:
        need = _need([who], shape)
        if need > free:
            turns.fail(who.name, f"needs {need / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
        if who.settings["peer"] == "llama.cpp":
            try:
                as_gguf(place)
            except Failed as failure:
                turns.fail(who.name, str(failure))


def _turn(number: int, works: list[Work], vocab_size: int, worker: Worker, result: Result) -> None:
    """One turn of one contestant."""
    for work in works:
        answer = worker.ask(do="generate", prompts=work.prompts(vocab_size), tokens=work.tokens)
        times = result.setdefault("times", {}).setdefault(work.name, {"reading": [], "decoding": []})
        times["reading"].append(answer["reading"])
        times["decoding"].append(answer["decoding"])
        result.setdefault("ids", {})[work.name] = answer["ids"]
        result["facts"] = answer["facts"]
        if work.tokens > 1:
            speed = work.texts * (work.tokens - 1) / answer["decoding"]
        else:
            speed = work.length / answer["reading"]
        note(f"  round {number}, {work.name}: {worker.name} {speed:,.1f} tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["125m", "gpt2", "pythia-160m"])
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="only these; all by default")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each contestant (5)")
    parser.add_argument("--prompt", type=int, default=64, metavar="T", help="tokens before the written ones (64)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="tokens that are written (128)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1], metavar="B", help="texts written together (1)")
    parser.add_argument("--read", nargs="*", type=int, default=[512, 2048], metavar="T", help="prompts to read")
    parser.add_argument("--threads", type=int, help="of a process; by default the cores that may be used")
    parser.add_argument("--models", type=Path, metavar="DIR", help="where models are kept; by default beside peers")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE", help="all numbers, as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the section into this page")
    options = parser.parse_args()
    stop_on_termination()
    options.models = options.models or options.environments / "models"
    known = {who.name for name in options.shapes for who in contestants(SHAPES[name])}
    if unknown := set(options.contestants or ()) - known:
        parser.error(
            f"nobody is called {', '.join(sorted(unknown))}; for these shapes there are {', '.join(sorted(known))}"
        )
    machine = Machine("cpu", "auto", options.threads, options.environments)
    try:
        shapes = {name: measure(SHAPES[name], machine, options) for name in options.shapes}
    except Failed as failure:
        raise SystemExit(str(failure)) from None
    finally:
        machine.stop()
    every = [result.get("versions", {}) for shape in shapes.values() for result in shape["contestants"].values()]
    # The first package of an environment is the peer; CTranslate2's converter has a transformers of its own beside it.
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
