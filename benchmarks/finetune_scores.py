"""Compare the scores of models fine-tuned by NeoLM and by the Trainer of transformers, over several seeds.

    python benchmarks/finetune_scores.py --model MODEL --glue FOLDER --tasks cola rte --seeds 5 --directory DIR

MODEL is the directory of a BERT, such as all-MiniLM-L6-v2; FOLDER has the official files of GLUE. Each training is a
process of its own and its result a file in --directory: a benchmark that was stopped goes on where it was.

`neolm` is `neolm finetune MODEL --task glue/TASK` with no other setting. `trainer` has the defaults of transformers
(3 epochs, batches of 8, 5e-5), `trainer-tuned` batches of 32, a warm-up of 10% and --trainer-epochs at --trainer-rate,
both in bfloat16 where the hardware has it. All are scored by the same code on the same examples of the dev part. The
probe that NeoLM trains first, and the model that it keeps of the two, are shown too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from environments import environment, versions
from machine import Machine, describe
from report import command_line, publish, table
from workers import HERE, log, stop_on_termination

MAIN = {"cola": "matthews", "sst2": "accuracy", "mrpc": "f1", "stsb": "spearman", "qnli": "accuracy", "rte": "accuracy"}
CONTESTANTS = ("neolm", "trainer", "trainer-tuned")


def neolm_cell(task: str, seed: int, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune with NeoLM; the scores of its candidates."""
    settings = [f"--seed={seed}", "finetune.tfidf=false", f"finetune.precision={options.precision}"]
    command = ["finetune", options.model, "--task", f"glue/{task}", "--train", options.glue, "--output", place]
    run([sys.executable, "-m", "neolm", *command, *settings], place)
    found = json.loads((place / "finetune" / "results.json").read_text(encoding="utf-8"))
    names = {"neolm": "fine-tuned", "neolm-probe": "probe", "neolm-kept": found["model"]}
    seconds = {**found["seconds"], found["model"]: sum(found["seconds"].values())}
    return {name: {**found["scores"][key], "seconds": seconds[key]} for name, key in names.items()}


def trainer_cell(
    name: str, task: str, seed: int, place: Path, options: argparse.Namespace, python: Path
) -> dict[str, Any]:
    """Fine-tune with Trainer; its scores."""
    from neolm.evaluation.text_scores import text_scores

    tuned = {"epochs": options.trainer_epochs, "rate": options.trainer_rate, "batch": 32, "warmup": 0.1}
    settings = tuned if name == "trainer-tuned" else {"epochs": 3, "rate": 5e-5, "batch": 8, "warmup": 0.0}
    job = {"model": str(options.model.resolve()), "directory": str(place), "seed": seed, "threads": options.threads}
    job |= {"data": str(place.parent / f"{task}.json"), "precision": options.precision, **settings}
    run([python, HERE / "trainer_scores.py", json.dumps(job)], place)
    found = json.loads((place / "logits.json").read_text(encoding="utf-8"))
    import numpy as np

    data = json.loads(Path(job["data"]).read_text(encoding="utf-8"))
    problem = "regression" if data["names"] is None else "single_label_classification"
    scores = text_scores(
        problem, data["names"] or ["score"], np.array(found["logits"]), np.array(data["dev"]["labels"])
    )
    return {name: {**scores, "seconds": found["seconds"]}}


def run(command: list[Any], place: Path) -> None:
    """Run a process; its output goes to `place.log`."""
    path = place.with_name(f"{place.name}.log")
    with path.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        last = path.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise SystemExit(f"{place.name} failed: {' '.join(last)} (the whole log is {path})")


def write_data(task: str, options: argparse.Namespace) -> None:
    """Write the token ids and labels of both parts for Trainer, as NeoLM reads them."""
    from neolm.finetuning.config import FinetuneConfig
    from neolm.finetuning.finetune_data import read_data
    from neolm.models.hf import open_model
    from neolm.prediction.text_windows import encode_texts
    from neolm.tokenizer.tokenizer import load_tokenizer

    path = options.directory / f"{task}.json"
    if path.is_file():
        return
    data = read_data(FinetuneConfig(task=f"glue/{task}", train=str(options.glue)), 1)
    length = open_model(options.model, "cpu").config.max_position_embeddings
    tokenizer = load_tokenizer(options.model)
    parts = {}
    for name, part in (("train", data.training), ("dev", data.validation)):
        encoded = encode_texts(tokenizer, part.texts, part.seconds, length, "truncate")
        labels = data.targets.tensor(part.labels, str(part.path)).tolist()
        ids, types = ([list(text.windows[0]) for text in encoded], [list(text.types[0]) for text in encoded])
        parts[name] = {"input_ids": ids, "token_type_ids": types, "labels": labels}
    names = None if data.targets.problem == "regression" else list(data.targets.names)
    path.write_text(json.dumps({**parts, "names": names}), encoding="utf-8")


def section(results: Mapping[str, Any]) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    parts = [describe(results["machine"], results["measured"])]
    parts[0] += " Peers: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + "."
    rows = []
    for task, cells in results["tasks"].items():
        for name in dict.fromkeys(name for cell in cells for name in cell):
            runs = [cell[name] for cell in cells if name in cell]
            scores = sorted(float(run[MAIN[task]] or 0.0) for run in runs)
            failed = sum(bool(run["failed"]) for run in runs)
            seconds = statistics.median(run["seconds"] for run in runs)
            spread = f"{scores[0]:.4f} to {scores[-1]:.4f}"
            median = f"{statistics.median(scores):.4f}"
            rows.append([task, MAIN[task], name, median, spread, str(len(runs)), str(failed), f"{seconds:,.0f}"])
    header = ["task", "score", "contestant", "median", "lowest to highest", "seeds", "failed", "seconds of training"]
    return "\n\n".join([*parts, table(header, rows), f"Made by `{results['command']}`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="MODEL", help="directory of a BERT")
    parser.add_argument("--glue", type=Path, required=True, metavar="FOLDER", help="official files of GLUE")
    parser.add_argument("--tasks", nargs="+", choices=MAIN, default=["cola", "rte", "mrpc", "stsb", "sst2"])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="trainings of each contestant (5)")
    parser.add_argument("--trainer-rate", type=float, default=1e-4, metavar="R", help="of trainer-tuned (1e-4)")
    parser.add_argument("--trainer-epochs", type=float, default=5.0, metavar="E", help="of trainer-tuned (5)")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=int, help="threads per process; default: number of usable cores")
    parser.add_argument("--environments", type=Path, default=Path(".benchmarks"), metavar="DIR")
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR", help="trainings and their results")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    stop_on_termination()
    options.directory.mkdir(parents=True, exist_ok=True)
    options.directory = options.directory.resolve()
    machine = Machine("cpu", options.precision, options.threads, options.environments)
    options.precision, options.threads = machine.precision, machine.threads
    peers = [name for name in options.contestants if name != "neolm"]
    python = environment("transformers", options.environments) if peers else Path(sys.executable)
    tasks: dict[str, list[dict[str, Any]]] = {task: [] for task in options.tasks}
    try:
        for task in options.tasks:
            write_data(task, options)
            for seed in range(1, options.seeds + 1):
                for name in options.contestants:
                    place = options.directory / f"{task}-{name}-{seed}"
                    path = place.with_name(f"{place.name}.json")
                    if not path.is_file():
                        machine.measure()
                        began = time.monotonic()
                        if name == "neolm":
                            found = neolm_cell(task, seed, place, options)
                        else:
                            found = trainer_cell(name, task, seed, place, options, python)
                        path.write_text(json.dumps(found), encoding="utf-8")
                        log(f"{place.name}: {found[name][MAIN[task]]:.4f} in {time.monotonic() - began:,.0f} s")
                    tasks[task].append(json.loads(path.read_text(encoding="utf-8")))
    finally:
        machine.stop()
    results = {
        "command": command_line("finetune_scores"),
        "machine": machine.facts,
        "measured": machine.measured,
        "versions": versions("transformers", python) if peers else {},
        "tasks": tasks,
    }
    publish("finetune_scores", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
