"""Compare the throughput of servers with many clients, and the latency of short requests in the meantime.

    python benchmarks/serve_throughput.py --rounds 3 --docs docs/benchmarks.md
    python benchmarks/serve_throughput.py --shapes pythia-160m --llama-server llama.cpp/build/bin/llama-server

1, 4, 16 and 32 clients send excerpts of this project's documentation over HTTP, one after the other, and request 64
tokens for each. In the meantime, a further client repeatedly sends a short prompt and waits for its first token; the
same latency is measured on an idle server. Models have random weights. transformers' continuous batching is used
where it supports the model (not GPT-Neo). llama.cpp's server, built from source (cmake, target llama-server) and
given by `--llama-server`, serves the GGUF files that `decode.py` has made of a GPT-2 or GPT-NeoX. With
`--device cuda` all servers use a GPU. With `--here`, transformers runs in the current environment.
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
from worker_pool import Result, WorkerPool
from workers import HERE, Contestant, Worker, log, stop_on_termination

PROBE = "How long does it take until somebody answers this?"
PROMPTS = 2  # of a client in a turn


def main() -> None:
    arguments = parse()
    stop_on_termination()
    machine = Machine(arguments.device, "bfloat16", arguments.threads, arguments.environments)
    texts = excerpts()
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


def contestants(shape: Shape, directory: Path, program: Path | None, environment: str | None) -> list[Contestant]:
    """Return the contestants: NeoLM in two precisions, transformers in one or two modes, llama.cpp if available."""
    script = "contestant_server.py"
    ours, theirs = {"server": "neolm", "more": {"ignore_eos": True}}, {"server": "transformers", "dtype": "bfloat16"}
    found = [
        Contestant("neolm-bfloat16", script, {**ours, "dtype": "bfloat16", "quantize": None}),
        Contestant("neolm-int8", script, {**ours, "dtype": "float32", "quantize": "int8"}),
        Contestant("transformers", script, {**theirs, "batching": False}, environment),
    ]
    if shape.family != "gpt-neo":
        found.append(Contestant("transformers-batching", script, {**theirs, "batching": True}, environment))
    if program is not None:
        llama = {"server": "llama.cpp", "program": str(program.resolve()), "more": {"ignore_eos": True}}
        for bits in ("bf16", "q8_0"):
            file = f"llama.cpp-{bits}.gguf"
            if (directory / file).is_file():
                found.append(Contestant(f"llama.cpp-{bits}", script, {**llama, "file": file}))
    return found


def measure(shape: Shape, machine: Machine, texts: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all rounds of one shape; the contestants take turns."""
    directory = random_model(shape, arguments.models or arguments.environments / "models")
    job = {"model": str(directory / HF), "threads": machine.threads, "memory": 2 * 2**30, "device": machine.device}
    environment = None if arguments.here else "transformers serve"
    pool = WorkerPool(job, arguments.environments, f"serving/{shape.name}")
    source = random.Random(3)
    try:
        for number in range(1, arguments.rounds + 1):
            for clients in (0, *arguments.clients):
                machine.measure()
                prompts = [[f"{number}. {source.choice(texts)}" for _ in range(PROMPTS)] for _ in range(clients)]
                command = {"texts": prompts, "tokens": arguments.tokens, "probe": PROBE, "pause": 0.3, "probes": 10}

                def turn(worker: Worker, result: Result, clients: int = clients, command: Any = command) -> None:
                    answer = worker.request(do="run_clients", **command)
                    row = result.setdefault(str(clients), {"speed": [], "waits": []})
                    if clients:
                        row["speed"].append(answer["tokens"] / answer["seconds"])
                    if answer["waits"]:  # there is none if all clients finished before the first pause ended
                        row["waits"].append(statistics.median(answer["waits"]))
                    log(f"  {worker.name}, {clients}: {answer['tokens'] / answer['seconds']:.0f} tokens/s")

                for contestant in contestants(shape, directory, arguments.llama_server, environment):
                    if not arguments.contestants or contestant.name in arguments.contestants:
                        pool.run_turn(contestant, True, turn)
    finally:
        pool.stop()
    return {"contestants": pool.results}


def section(name: str, result: dict[str, Any], arguments: argparse.Namespace) -> str:
    """Return the table of one shape."""
    found = result["contestants"]
    base = found.get("transformers", {})
    rows = []
    for contestant, measured in found.items():
        if "failed" in measured:
            rows.append((contestant, "", f"left out: {measured['failed']}", "", ""))
            continue
        for clients in arguments.clients:
            row = measured[str(clients)]
            compared = base.get(str(clients), {}).get("speed")
            rows.append(
                (
                    contestant,
                    str(clients),
                    spread(row["speed"]),
                    ratio(row["speed"], compared) if compared and contestant != "transformers" else "",
                    f"{spread([1000 * wait for wait in row['waits']])} "
                    f"({statistics.median(row['waits']) / statistics.median(measured['0']['waits']):.1f} x)"
                    if row["waits"]
                    else "not measured",
                )
            )
    header = ("", "clients", "total tokens/s", "ratio to transformers", "first token of a short prompt, ms (x idle)")
    return f"{name}, {arguments.tokens} tokens for each prompt:\n\n{table(header, rows)}"


def excerpts() -> list[str]:
    """Return excerpts of 60 to 900 characters from the documentation."""
    source = random.Random(4)
    prose = " ".join(path.read_text(encoding="utf-8") for path in sorted((HERE.parent / "docs").glob("*.md")))
    starts = [source.randrange(len(prose) - 900) for _ in range(400)]
    return [prose[start : start + source.randrange(60, 900)] for start in starts]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["125m"], choices=sorted(SHAPES))
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="only these; default: all")
    parser.add_argument(
        "--llama-server", type=Path, metavar="FILE", help="llama.cpp's server; without it, llama.cpp is left out"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--here", action="store_true", help="run transformers in the current environment")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--tokens", type=int, default=64, help="per prompt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "neolm-benchmarks")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--docs", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
