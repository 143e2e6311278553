"""Compare the speed and quality of sentence embeddings on a CPU: NeoLM, sentence-transformers and transformers.

    python benchmarks/encoder_inference.py --model all-MiniLM-L6-v2 --data ../shared/data --rounds 5

All contestants turn the same texts into vectors, from text to vector, with the same number of threads, each in its own
process, which keeps its model loaded. sentence-transformers runs on torch, ONNX Runtime and OpenVINO. The workloads are
sentences (of STS-B), sentences and paragraphs of Wikipedia mixed, and sentences one at a time. For each workload the
contestants take turns, A B C A B C ..., and sleep in between; each uses the batch size that was fastest in a trial.

Quality is the Spearman correlation of the cosines with the scores of STS-B's validation pairs, and the lowest cosine of
a vector with that of transformers in float32.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from machine import Machine, describe
from report import command_line, publish, ratio, spread, table
from worker_pool import Result, WorkerPool
from workers import Contestant, Worker, log, stop_on_termination

REFERENCE = "transformers-float32"
TORCH = "sentence-transformers-float32"
WORKLOADS = {"mixed": "mixed lengths", "sentences": "sentences", "alone": "one sentence at a time"}
PARAGRAPH = range(100, 2000)
"""Characters of the paragraphs of Wikipedia that are taken; the longest are longer than the model reads."""


def contestants() -> list[Contestant]:
    """Return all contestants: for each tool its formats."""
    found = []
    for kind, dtype, quantize in (("float32", "float32", None), ("bfloat16", "bfloat16", None), ("int8", None, "int8")):
        settings = {"dtype": dtype, "quantize": quantize}
        found.append(Contestant(f"neolm-{kind}", "contestant_embedder.py", settings))
    found.append(Contestant(REFERENCE, "contestant_transformers_embed.py", {}, "transformers"))
    peers = (
        ("torch", "sentence-transformers", ("float32", "bfloat16")),
        ("onnx", "sentence-transformers onnx", ("float32", "int8")),
        ("openvino", "sentence-transformers openvino", ("float32", "bfloat16", "int8")),
    )
    for backend, environment, kinds in peers:
        for kind in kinds:
            prefix = "sentence-transformers" if backend == "torch" else backend
            # The rounded model of OpenVINO computes what it does not round in bfloat16, as is its default.
            dtype = "bfloat16" if kind == "int8" and backend == "openvino" else kind
            settings = {"backend": backend, "dtype": dtype, "quantize": "int8" if kind == "int8" else None}
            script = "contestant_sentence_transformers.py"
            found.append(Contestant(f"{prefix}-{kind}", script, settings, environment))
    return found


def read_texts(data: Path, count: int) -> tuple[dict[str, list[str]], list[float]]:
    """Return the texts of each workload, and the scores of STS-B's pairs, whose texts are the workload `pairs`."""
    pairs = [line.split("\t") for line in read_zst(data / "glue" / "STS-B" / "dev.tsv.zst").splitlines()[1:]]
    first, second, scores = [row[7] for row in pairs], [row[8] for row in pairs], [float(row[9]) for row in pairs]
    source = random.Random(1)
    sentences = source.sample(sorted({*first, *second}), count)
    articles = [
        json.loads(line)["text"] for line in read_zst(data / "minipile" / "wikipedia_en.jsonl.zst").splitlines()
    ]
    paragraphs = [part for article in articles for part in article.split("\n") if len(part) in PARAGRAPH]
    chosen = source.sample(paragraphs, count)
    mixed = sentences[: count // 2] + chosen[: count // 2]
    source.shuffle(mixed)
    workloads = {"mixed": mixed, "sentences": sentences, "alone": sentences[: count // 8]}
    return {
        **workloads,
        "calibration": sentences[count // 2 :: 2] + chosen[count // 2 :: 2],
        "pairs": first + second,
    }, scores


def read_zst(path: Path) -> str:
    """Return the text of a file compressed with zstd."""
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()).decode("utf-8")


def measure(options: argparse.Namespace, machine: Machine, texts: Path) -> dict[str, Result]:
    """Measure all rounds and the vectors of the pairs; a contestant that fails is left out."""
    chosen = [one for one in contestants() if not options.contestants or one.name in options.contestants]
    model = options.model.resolve()
    name = f"{model.parent.name}-{model.name}"
    exported = options.environments.resolve() / "models" / name
    exported.mkdir(parents=True, exist_ok=True)
    settings = json.loads((model / "sentence_bert_config.json").read_text(encoding="utf-8"))
    job = {
        **{"model": str(model), "texts": str(texts), "threads": machine.threads},
        **{"max_length": settings["max_seq_length"], "exported": str(exported)},
    }
    pool = WorkerPool(job, options.environments, "encoder_inference")
    try:
        for workload in WORKLOADS:
            for number in range(1, options.rounds + 1):
                machine.measure()
                for contestant in chosen:
                    pool.run_turn(contestant, True, functools.partial(_embed, number, workload))
        for contestant in chosen:
            pool.run_turn(contestant, False, _save)
    finally:
        pool.stop()
    return pool.results


def _embed(number: int, workload: str, worker: Worker, result: Result) -> None:
    answer = worker.request(do="embed", workload=workload, alone=workload == "alone")
    result.setdefault("seconds", {}).setdefault(workload, []).append(answer["seconds"])
    result.setdefault("batch_size", {})[workload] = answer["batch_size"]
    log(f"  round {number}, {workload}: {worker.name} {answer['seconds']:.2f} s")


def _save(worker: Worker, result: Result) -> None:
    import numpy as np

    result["vectors"] = np.load(worker.request(do="save", workload="pairs")["path"])


def add_quality(results: dict[str, Result], scores: list[float]) -> None:
    """Replace the vectors of each contestant by its correlation and its distance from transformers."""
    import numpy as np

    vectors = {name: result.pop("vectors") for name, result in results.items() if "vectors" in result}
    for name, found in vectors.items():
        first, second = np.split(found / np.linalg.norm(found, axis=1, keepdims=True), 2)
        results[name]["spearman"] = spearman((first * second).sum(1), np.array(scores))
        if REFERENCE in vectors:
            results[name]["cosine"] = float((found * vectors[REFERENCE]).sum(1).min())
            results[name]["difference"] = float(np.abs(found - vectors[REFERENCE]).max())


def spearman(x: Any, y: Any) -> float:
    """Return the correlation of the ranks; equal values share the mean of their ranks."""
    import numpy as np

    ranks = []
    for values in (x, y):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    return float(np.corrcoef(*ranks)[0, 1])


def section(results: dict[str, Any]) -> str:
    """Return the section of the page."""
    found, counts = results["contestants"], results["texts"]
    timed = {name: one for name, one in found.items() if "failed" not in one}
    int8 = [name for name in timed if name.endswith("int8") and not name.startswith("neolm")]
    parts = [describe(results["machine"], results["measured"])]
    versions = {name: number for one in found.values() for name, number in one.get("versions", {}).items()}
    parts[0] += f" Peers: {', '.join(f'{name} {number}' for name, number in versions.items())}."
    for workload, title in WORKLOADS.items():
        best = min(int8, key=lambda name: min(timed[name]["seconds"][workload]), default=None)
        header = [
            "contestant",
            "batch",
            "texts/s",
            "times sentence-transformers on torch",
            "times the fastest peer in int8",
        ]
        rows = []
        for name, one in timed.items():
            seconds = one["seconds"][workload]
            against = [
                ratio(timed[peer]["seconds"][workload], seconds)
                if peer in timed and peer != name
                else "1"
                if peer
                else ""
                for peer in (TORCH if TORCH in timed else None, best)
            ]
            batch = "" if name.startswith("neolm") else str(one["batch_size"][workload])
            rows.append([name, batch, spread([counts[workload] / value for value in seconds]), *against])
        parts.append(f"{counts[workload]:,} texts, {title}:")
        parts.append(table(header, rows))
    header = ["contestant", "Spearman on STS-B, %", "lowest cosine", "largest difference"]
    rows = [
        [name, f"{100 * one['spearman']:.2f}", f"{one['cosine']:.6f}", f"{one['difference']:.1e}"]
        for name, one in timed.items()
        if "cosine" in one
    ]
    parts += ["Quality; cosines and differences are with the vectors of transformers in float32:", table(header, rows)]
    parts += [f"Left out: {name}: {one['failed']}." for name, one in found.items() if "failed" in one]
    return "\n\n".join([*parts, f"Made by `{results['command']}`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="directory of all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory with glue/ and minipile/")
    names = [one.name for one in contestants()]
    parser.add_argument("--contestants", nargs="+", choices=names, metavar="NAME", help="only these; default: all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns per contestant (5)")
    parser.add_argument("--texts", type=int, default=512, metavar="N", help="texts of a workload (512)")
    parser.add_argument("--threads", type=int, help="threads per process; default: number of usable cores")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    stop_on_termination()
    workloads, scores = read_texts(options.data, options.texts)
    machine = Machine("cpu", "float32", options.threads, options.environments)
    try:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            texts = Path(folder) / "texts.json"
            texts.write_text(json.dumps(workloads), encoding="utf-8")
            found = measure(options, machine, texts)
    finally:
        machine.stop()
    add_quality(found, scores)
    results = {
        "command": command_line("encoder_inference"),
        "machine": machine.facts,
        "measured": machine.measured,
        "texts": {name: len(texts) for name, texts in workloads.items()},
        "contestants": found,
    }
    publish("encoder_inference", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
