"""What many clients get together, and how long a short question waits: `neolm serve` beside its peers.

    python benchmarks/serve_throughput.py --rounds 3 --docs docs/benchmarks.md
    python benchmarks/serve_throughput.py --shapes pythia-160m --llama-server llama.cpp/build/bin/llama-server

1, 4, 16 and 32 clients send pieces of this project's documentation over HTTP, one after the other, and want 64 tokens
for each. Meanwhile somebody asks a short question again and again and waits for its first token; beside that stands
what they wait when nobody else is there. Models have random weights. transformers' continuous batching is used where it
knows the model (not GPT-Neo). llama.cpp's server, built from its sources (cmake, target llama-server) and named by
`--llama-server`, serves the GGUF files that `decode.py` leaves beside a GPT-2 or GPT-NeoX. With `--device cuda` all are
on a GPU, and with `--here` transformers runs in this environment instead of one that is made for it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from machine import Machine, describe
from random_models import HF, random_model
from report import command_line, publish, ratio, spread, table
from shapes import SHAPES, Shape
from turns import Result, Turns
from workers import HERE, Contestant, Worker, note, stop_on_termination

PROBE = "How long does it take until somebody answers this?"
EACH = 2  # questions of a client in a turn


def main() -> None:
    arguments = parse()
    stop_on_termination()
    machine = Machine(arguments.device, "bfloat16", arguments.threads, arguments.environments)
    texts = pieces()
    results = {}
    try:
        for name in arguments.shapes:
            results[name] = measure(SHAPES[name], machine, texts, arguments)
    finally:
        machine.stop()
    sections = [describe(machine.facts, machine.measured)]
    sections += [section(name, result, arguments) for name, result in results.items()]
    sections.append(f"`{command_line('serve_throughput')}`")
    publish("serving", "\n\n".join(sections), results, arguments.output, arguments.docs)


def contestants(shape: Shape, place: Path, program: Path | None, own: str | None) -> list[Contestant]:
    """NeoLM in two precisions, transformers in one or two modes, and llama.cpp where it can."""
    script = "contestant_server.py"
    ours, theirs = {"server": "neolm", "more": {"ignore_eos": True}}, {"server": "transformers", "dtype": "bfloat16"}
    found = [
        Contestant("neolm-bfloat16", script, {**ours, "dtype": "bfloat16", "quantize": None}),
        Contestant("neolm-int8", script, {**ours, "dtype": "float32", "quantize": "int8"}),
        Contestant("transformers", script, {**theirs, "batching": False}, own),
    ]
    if shape.family != "gpt-neo":
        found.append(Contestant("transformers-batching", script, {**theirs, "batching": True}, own))
    if program is not None:
        llama = {"server": "llama.cpp", "program": str(program.resolve()), "more": {"ignore_eos": True}}
        for bits in ("bf16", "q8_0"):
            file = f"llama.cpp-{bits}.gguf"
            if (place / file).is_file():
                found.append(Contestant(f"llama.cpp-{bits}", script, {**llama, "file": file}))
    return found


def measure(shape: Shape, machine: Machine, texts: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds of one shape, everybody in turn."""
    place = random_model(shape, arguments.models or arguments.environments / "models")
    job = {"model": str(place / HF), "threads": machine.threads, "memory": 2 * 2**30, "device": machine.device}
    own = None if arguments.here else "transformers serve"
    turns = Turns(job, arguments.environments, f"serving/{shape.name}")
    source = random.Random(3)
    try:
        for number in range(1, arguments.rounds + 1):
            for clients in (0, *arguments.clients):
                machine.measure()
                asked = [[f"{number}. {source.choice(texts)}" for _ in range(EACH)] for _ in range(clients)]
                command = {"texts": asked, "tokens": arguments.tokens, "probe": PROBE, "pause": 0.3, "probes": 10}

                def turn(worker: Worker, result: Result, clients: int = clients, command: Any = command) -> None:
                    answer = worker.ask(do="crowd", **command)
                    row = result.setdefault(str(clients), {"speed": [], "waits": []})
                    if clients:
                        row["speed"].append(answer["tokens"] / answer["seconds"])
                    if answer["waits"]:  # none, where all is answered before anybody could ask again
                        row["waits"].append(statistics.median(answer["waits"]))
                    note(f"  {worker.name}, {clients}: {answer['tokens'] / answer['seconds']:.0f} tokens/s")

                for who in contestants(shape, place, arguments.llama_server, own):
                    if not arguments.contestants or who.name in arguments.contestants:
                        turns.take(who, True, turn)
    finally:
        turns.stop()
    return {"contestants": turns.results}


def section(name: str, result: dict[str, Any], arguments: argparse.Namespace) -> str:
    """A table of one shape."""
    found = result["contestants"]
    base = found.get("transformers", {})
    rows = []
    for who, measured in found.items():
        if "failed" in measured:
            rows.append((who, "", f"left out: {measured['failed']}", "", ""))
            continue
        for clients in arguments.clients:
            row = measured[str(clients)]
            compared = base.get(str(clients), {}).get("speed")
            rows.append(
                (
                    who,
                    str(clients),
                    spread(row["speed"]),
                    ratio(row["speed"], compared) if compared and who != "transformers" else "",
                    f"{spread([1000 * wait for wait in row['waits']])} "
                    f"({statistics.median(row['waits']) / statistics.median(measured['0']['waits']):.1f} x)"
                    if row["waits"]
                    else "not asked",
                )
            )
    header = ("", "clients", "tokens/s together", "to transformers", "first token of a short question, ms (to idle)")
    return f"{name}, {arguments.tokens} tokens for each question:\n\n{table(header, rows)}"


def pieces() -> list[str]:
    """Pieces of prose of 60 to 900 characters."""
    source = random.Random(4)
    prose = " ".join(path.read_text(encoding="utf-8") for path in sorted((HERE.parent / "docs").glob("*.md")))
    starts = [source.randrange(len(prose) - 900) for _ in range(400)]
    return [prose[start : start + source.randrange(60, 900)] for start in starts]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["125m"], choices=sorted(SHAPES))
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="only these; all by default")
    parser.add_argument("--llama-server", type=Path, metavar="FILE", help="llama.cpp's server; else it is left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--here", action="store_true", help="transformers in this environment")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--tokens", type=int, default=64, help="for each question")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "neolm-benchmarks")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--docs", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
