"""Compare the speed of near-duplicate search with that of rensa, MinHash and LSH in Rust, on the same documents.

    taskset -c 1 python benchmarks/corpus.py --text ../shared/data/minipile
    taskset -c 1 python benchmarks/corpus.py --text ../shared/data/minipile --pipeline

NeoLM reads the texts from its scratch files, normalises and signs them, and verifies every pair. rensa has the texts in
memory; Python cuts them into word 5-grams, because rensa takes lists of tokens; its batch functions sign and compare,
and nothing is verified. Both use 112 MinHash values. Compilation and imports are not timed.

`--pipeline` compares a whole build with datatrove instead: FineWeb's filters of quality (both of Gopher, C4, FineWeb)
and near-duplicates with 14 buckets of 8, from JSON lines to files of the documents that are kept. NeoLM also hashes its
input and output, finds exact duplicates, verifies the pairs, and sorts. Languages and tokens are left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from environments import environment, versions
from machine import revision, usable_cores
from report import command_line, publish, ratio, spread, table
from workers import HERE, log

SETTINGS = {
    "neolm": {"buckets": 16, "rows": 7},
    "neolm, FineWeb's 14 x 8": {"buckets": 14, "rows": 8},
    "rensa": {"buckets": 16, "rows": 7},
}

PIPELINES = ("neolm, whole build", "datatrove, whole build")
FILTERS: dict[str, Any] = {"gopher_repetition": {}, "gopher_quality": {}, "fineweb": {}} | {
    "c4": {"terminal_punctuation": False, "min_line_words": 3, "min_sentences": 5},
    "near_duplicates": {"buckets": 14, "rows": 8, "max_dropped_share": 1.0},
}


def prepare(place: Path, folder: Path) -> int:
    """Write the texts of `place` as scratch files and as JSON lines, and return their bytes."""
    from neolm.corpus.config import CorpusConfig
    from neolm.corpus.frames import open_records, read_files
    from neolm.corpus.sources import RawText

    config = CorpusConfig(source="files", path=str(place))
    (folder / "scratch").mkdir()
    list(read_files(RawText(config, folder).found.files, folder / "scratch", config))
    size = 0
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        for row in open_records(folder / "scratch").to_arrow().to_pylist():
            if row["reason"] is None:
                size += len(row["text"].encode("utf-8"))
                file.write(json.dumps(row["text"]) + "\n")
    (folder / "documents").mkdir()
    with (folder / "texts.jsonl").open(encoding="utf-8") as texts:
        number = 0
        while part := list(itertools.islice(texts, 1000)):
            lines = "".join(json.dumps({"text": json.loads(line)}) + "\n" for line in part)
            (folder / "documents" / f"{number:04d}.jsonl").write_text(lines, encoding="utf-8")
            number += 1
    return size


def run_pipeline(folder: Path) -> dict[str, float]:
    """Build a corpus of the documents twice and measure the second build."""
    from neolm.corpus.build import build_corpus
    from neolm.corpus.config import CorpusConfig

    config = CorpusConfig(source="files", path=str(folder / "documents"), **FILTERS)
    for _ in range(2):
        with tempfile.TemporaryDirectory() as output:
            wall, cpu = time.perf_counter(), time.process_time()
            counts = build_corpus(Path(output), config).counts
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "found": counts["kept"]["documents"]}


def run_neolm(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Search the scratch files twice and measure the second search."""
    from neolm.corpus.config import NearDuplicatesConfig
    from neolm.corpus.engine import daft
    from neolm.corpus.frames import open_records
    from neolm.corpus.near_duplicates import find_near_duplicates

    records, name = open_records(folder / "scratch"), daft.col("id")
    kept = records.where(daft.col("reason").is_null()).select(
        "file", "record", "id", name.alias("parent"), "source", "characters"
    )
    kept, config = kept.collect(), NearDuplicatesConfig(**settings, max_dropped_share=1.0)
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        found = find_near_duplicates(records, kept, config, folder / "scratch").counts["documents"]
        measured = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "found": found}
    return measured


def run_rensa(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Sign the texts with rensa's batch functions, and count those that share a bucket."""
    import re

    from rensa import RMinHash, RMinHashLSH

    texts = [json.loads(line) for line in (folder / "texts.jsonl").open(encoding="utf-8")]
    permutations = settings["buckets"] * settings["rows"]

    def shingles(text: str) -> list[str]:
        words = re.findall(r"[^\W_]+", text.lower())
        return [" ".join(words[i : i + 5]) for i in range(len(words) - 4)]

    wall, cpu = time.perf_counter(), time.process_time()
    sets = (shingles(text) for text in texts)
    matrix = RMinHash.digest_matrix_from_token_sets(sets, permutations, 1)
    index = RMinHashLSH(threshold=0.8, num_perm=permutations, num_bands=settings["buckets"])
    found = sum(index.insert_matrix_and_query_duplicate_flags(matrix))
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "found": found}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all contestants in turn, each in its own process."""
    names = PIPELINES if options.pipeline else tuple(SETTINGS)
    peer = "datatrove" if options.pipeline else "rensa"
    size, rounds = prepare(options.text, folder), {name: [] for name in names}
    for number in range(options.rounds):
        for name, measured in rounds.items():
            log(f"round {number + 1}: {name}")
            python = environment(peer if name.startswith(peer) else None, options.environments)
            command = [python, HERE / "corpus.py", "--contestant", name, "--folder", folder]
            if name.startswith("datatrove"):
                work = folder / f"datatrove-{number}"
                command = [python, HERE / "contestant_datatrove.py", folder / "documents", work]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    found = versions(peer, environment(peer, options.environments))
    return {"bytes": size, "rounds": rounds, "peer": {peer: found[peer]}, "cores": usable_cores()}


def section(results: dict[str, Any]) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    megabytes, rounds = results["bytes"] / 1e6, results["rounds"]
    ((peer, version),) = results["peer"].items()
    theirs_name = list(rounds)[-1]
    rows = []
    for name, measured in rounds.items():
        cpu, wall = ([megabytes / row[key] for row in measured] for key in ("cpu", "wall"))
        theirs = [megabytes / row["cpu"] for row in rounds[theirs_name]]
        rows.append([name, spread(cpu, 1), spread(wall, 1), ratio(cpu, theirs), f"{measured[0]['found']:,}"])
    header = ["contestant", "MB per second of processor time", "MB/s", f"ratio to {peer}", "documents found or kept"]
    return "\n\n".join(
        [
            f"{megabytes:.1f} MB of text, cores: {results['cores']}, {len(rounds[theirs_name])} rounds. "
            f"NeoLM at revision {results['revision']}; {peer} {version}.",
            table(header, rows),
            f"Made by `{results['command']}`.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, metavar="PLACE", help="a file or folder of raw text")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each contestant (3)")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR", help="of the peers")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    parser.add_argument("--pipeline", action="store_true", help="a whole build, compared with datatrove")
    parser.add_argument("--contestant", choices=(*SETTINGS, PIPELINES[0]), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        if options.contestant in PIPELINES:
            measured = run_pipeline(options.folder)
        else:
            run = run_rensa if options.contestant == "rensa" else run_neolm
            measured = run(options.folder, SETTINGS[options.contestant])
        print(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    results |= {"command": command_line("corpus"), "revision": revision()}
    publish(
        "corpus pipeline" if options.pipeline else "corpus", section(results), results, options.output, options.docs
    )


if __name__ == "__main__":
    main()
