"""Compare the speed of encoding text to token shards with `tokenizers` and tiktoken, on the same documents.

    taskset -c 1 python benchmarks/encoding.py --text ../shared/data/minipile --tokenizer ../shared/data/tok_gpt2

NeoLM writes complete shards (tokens, index, check sums) from documents in memory, on all usable cores; the first time
compiles and is not timed, but its table of words is empty. `tokenizers` encodes in batches of a million characters and
makes uint16 arrays; tiktoken does the same with the same vocabulary. All give the same number of tokens.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from corpus import prepare
from environments import environment, versions
from machine import revision, usable_cores
from report import command_line, publish, ratio, spread, table
from workers import HERE, log

CONTESTANTS = ("neolm", "tokenizers", "tiktoken")
GROUP = 1_000_000  # characters of a call


def groups(texts: list[str]) -> list[list[str]]:
    """The texts in groups of about GROUP characters."""
    found: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size >= GROUP:
            found, size = [*found, []], 0
        found[-1].append(text)
        size += len(text)
    return found


def run(name: str, folder: Path) -> dict[str, float]:
    """Encode the texts of the folder once and measure it."""
    import numpy as np

    texts = [json.loads(line) for line in (folder / "texts.jsonl").open(encoding="utf-8")]
    if name == "tiktoken":
        import tiktoken

        vocabulary = json.loads((folder / "vocabulary.json").read_text())
        ranks = {bytes.fromhex(key): value for key, value in vocabulary.items()}
        pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        encoder = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        threads = usable_cores()
    else:
        from neolm.corpus.documents import Document
        from neolm.data.shards import write_shards
        from neolm.tokenizer.tokenizer import load_tokenizer

        tokenizer = load_tokenizer(folder / "tokenizer")
        documents = [Document(str(n), str(n), text, "s", "l", "{}") for n, text in enumerate(texts)]
        (folder / "shards").mkdir(exist_ok=True)
        write_shards(documents[:1], tokenizer, folder / "shards", "warm")
    wall, cpu = time.perf_counter(), time.process_time()
    if name == "neolm":
        tokens = write_shards(documents, tokenizer, folder / "shards", "train")["tokens"] - len(texts) - 1
    else:
        tokens = 0
        for group in groups(texts):
            if name == "tiktoken":
                encoded = encoder.encode_ordinary_batch(group, num_threads=threads)
            else:
                encoded = tokenizer.encode_batch(group)
            tokens += sum(len(np.array(ids, "<u2")) for ids in encoded)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "tokens": tokens}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all contestants in turn, each in its own process."""
    from neolm.tokenizer.tokenizer import copy_tokenizer, load_tokenizer

    cores = os.sched_getaffinity(0)
    size = prepare(options.text, folder)
    os.sched_setaffinity(0, cores)  # the preparation can undo `taskset`
    copy_tokenizer(options.tokenizer, folder / "tokenizer")
    spelled = enumerate(load_tokenizer(folder / "tokenizer")._token_bytes)
    ranks = {token.hex(): number for number, token in spelled if token != b"<|endoftext|>"}
    (folder / "vocabulary.json").write_text(json.dumps(ranks))
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds):
        for name, measured in rounds.items():
            log(f"round {number + 1}: {name}")
            python = environment("tiktoken" if name == "tiktoken" else None, options.environments)
            command = [python, HERE / "encoding.py", "--contestant", name, "--folder", folder]
            threads = {"RAYON_NUM_THREADS": str(usable_cores()), "TOKENIZERS_PARALLELISM": "true"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **threads})
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    tiktoken = versions("tiktoken", environment("tiktoken", options.environments))["tiktoken"]
    peers = {"tokenizers": importlib.metadata.version("tokenizers"), "tiktoken": tiktoken}
    return {"bytes": size, "rounds": rounds, "peers": peers, "cores": usable_cores()}


def section(results: dict[str, Any]) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    megabytes, rounds = results["bytes"] / 1e6, results["rounds"]
    rows = []
    for name, measured in rounds.items():
        cpu, wall = ([megabytes / row[key] for row in measured] for key in ("cpu", "wall"))
        theirs = [megabytes / row["cpu"] for row in rounds["tokenizers"]]
        rows.append([name, spread(cpu, 1), spread(wall, 1), ratio(cpu, theirs), f"{int(measured[0]['tokens']):,}"])
    header = ["contestant", "MB per second of processor time", "MB/s", "ratio to tokenizers", "tokens"]
    peers = ", ".join(f"{name} {version}" for name, version in results["peers"].items())
    first = f"{megabytes:.1f} MB of text, cores: {results['cores']}, {len(rounds['neolm'])} rounds."
    about = f"{first} NeoLM at revision {results['revision']}; {peers}."
    return "\n\n".join([about, table(header, rows), f"Made by `{results['command']}`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, metavar="PLACE", help="a file or folder of raw text")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="a byte-level BPE, such as GPT-2's")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each contestant (3)")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR", help="of the peers")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        print(json.dumps(run(options.contestant, options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    results |= {"command": command_line("encoding"), "revision": revision()}
    publish("encoding", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
