"""Precision and recall of the rules of decontamination, on planted items of real evaluation sets and on hard negatives.

    taskset -c 1 python benchmarks/decontamination.py --data ../shared/data --docs docs/benchmarks.md

Items of eight sets are put into pages of Wikipedia in ten ways. The negatives are pages that only look like them: the
passage of an item alone, a famous speech that a question quotes, a licence header that a task of code has, the template
of many questions, a series of numbers, and pages without anything. A page that has no item and is found counts against
precision.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard
from machine import revision
from report import command_line, publish, table

from neolm.corpus.config import DecontaminationConfig
from neolm.corpus.evaluation_items import EvaluationIndex, Item
from neolm.evaluation_sets import evaluation_sets
from neolm.pipeline import run

ITEMS, PAGES, RULES = 12, 1500, ("careful", "gpt3", "ngram")
COLUMNS = [f"column_{number}" for number in range(1, 6)]
SPEECH = """Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in
Liberty, and dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war,
testing whether that nation, or any nation so conceived and so dedicated, can long endure."""
LICENCE = """Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in
compliance with the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0. Unless
required by applicable law or agreed to in writing, software distributed under the License is distributed on an "AS IS"
BASIS."""
OWN = [
    {"q": f'"{SPEECH}" In which small town was this speech given by the tired president?', "a": "Gettysburg"},
    {"q": f"{LICENCE}\nWrite a function that returns the third largest of a list of numbers.", "a": "sorted(x)[-3]"},
    {"q": "What is the next number? " + " ".join(map(str, range(2, 42, 2))), "a": "42"},
]
TEMPLATE = (
    "Which of the following statements is the most accurate description of the relation between the two things named"
)
OWN += [{"q": f"{TEMPLATE}, {one}?", "a": one} for one in (f"rivers and roads of county {n}" for n in range(40))]


def sets(data: Path, folder: Path) -> dict[str, Any]:
    """Return the settings of the evaluation sets."""
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, OWN)), encoding="utf-8")
    tables = [
        {"name": "gsm8k", "path": data / "gsm8k" / "test.jsonl.zst", "question": ["question"], "answer": "answer"},
        {
            "name": "truthfulqa",
            "path": data / "truthfulqa" / "TruthfulQA.csv.zst",
            "question": ["Question"],
            "answer": "Best Answer",
        },
        {"name": "mmlu", "path": data / "mmlu" / "test", "question": COLUMNS, "answer": "column_6"},
        {"name": "own", "path": folder / "own.jsonl", "question": ["q"], "answer": "a"},
    ]
    tasks = ["glue/rte", "glue/mrpc", "superglue/boolq", "superglue/copa", "superglue/multirc"]
    return {"tasks": tasks, "data": str(data), "tables": [one | {"path": str(one["path"])} for one in tables]}


def rendered(item: Item) -> str:
    """Return an item as it stands in a file."""
    return "\n".join(text for text in (item.passage, *item.question, *item.answers[:1]) if text)


def inside(text: str, page: str) -> str:
    """Return the page with the text between two of its sentences."""
    before, _, after = page.partition(". ")
    return f"{before}.\n\n{text}\n\n{after}"


def asked(item: Item) -> str:
    """Return question and answer with a letter in front of each."""
    return "\n".join([item.passage, "Q: " + "\n".join(item.question), "A: " + (item.answers or ("true",))[0]])


WAYS: dict[str, Callable[[Item, str], str]] = {
    "verbatim": lambda item, page: rendered(item),
    "start of a page": lambda item, page: f"{rendered(item)}\n\n{page}",
    "end of a page": lambda item, page: f"{page}\n\n{rendered(item)}",
    "inside a page": lambda item, page: inside(rendered(item), page),
    "first half of the question": lambda item, page: inside(half(item, first=True), page),
    "second half with the answer": lambda item, page: inside(half(item, first=False), page),
    "lines of 40 characters": lambda item, page: inside(wrapped(rendered(item)), page),
    "capitals": lambda item, page: inside(rendered(item).upper(), page),
    "other punctuation": lambda item, page: inside(rendered(item).replace(" ", "  ").replace(".", " —"), page),
    "Q: and A:": lambda item, page: inside(asked(item), page),
}


def half(item: Item, first: bool) -> str:
    """Return the passage with half of the words of question and answer."""
    question = " ".join(item.question).split()
    words = question[: (len(question) + 1) // 2] if first else question[len(question) // 2 :]
    return "\n".join([item.passage, " ".join(words), *(() if first else item.answers[:1])])


def wrapped(text: str) -> str:
    """Return the text in lines of about 40 characters."""
    lines, line = [], ""
    for word in text.split():
        line = f"{line} {word}".strip()
        if len(line) >= 40:
            lines.append(line)
            line = ""
    return "\n".join([*lines, line])


def documents(items: dict[str, list[Item]], pages: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and text of the documents of the corpus."""
    page = iter(pages)
    for name, own in items.items():
        for number, item in enumerate(own if name != "own" else ()):
            for way, plant in WAYS.items():
                yield f"leak|{way}|{name}|{number}", plant(item, next(page))
            if item.passage:
                yield f"harmless|passage alone|{name}|{number}", inside(item.passage, next(page))
    for number in range(5):
        yield f"harmless|speech||{number}", inside(SPEECH, next(page))
        yield f"harmless|licence header||{number}", f"{LICENCE}\n\n{next(page)}"
        yield f"harmless|template||{number}", inside(f"{TEMPLATE}, the tale of page {number}?", next(page))
        yield f"harmless|series||{number}", inside(" ".join(map(str, range(2, 60, 2))), next(page))
    for number, text in enumerate(page):
        yield f"harmless|page||{number}", text


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Plant the items, and build the corpus by each rule."""
    settings = sets(options.data, folder)
    config = DecontaminationConfig.model_validate_json(json.dumps(settings))
    read = list(evaluation_sets(config).items())
    unjudged = {id(read[number]) for number in EvaluationIndex(config, read).not_judged}
    items: dict[str, list[Item]] = {}
    for item in read:
        items.setdefault(item.evaluation, []).append(item)
    chooser = random.Random(1)
    items = {name: chooser.sample([one for one in own if one.problem is None], ITEMS) for name, own in items.items()}
    path = options.data / "minipile" / "wikipedia_en.jsonl.zst"
    with zstandard.open(path, "rt", encoding="utf-8") as file:
        pages = [text for text in (json.loads(line)["text"] for line in file) if 1000 < len(text) < 6000]
    made = dict(documents(items, pages[:PAGES]))
    lines = [json.dumps({"id": name, "text": text}) for name, text in made.items()]
    (folder / "raw").mkdir()
    (folder / "raw" / "documents.jsonl").write_text("\n".join(lines), encoding="utf-8")
    short = {f"{name}|{n}" for name, own in items.items() for n, item in enumerate(own) if id(item) in unjudged}
    found: dict[str, Any] = {}
    for rule in RULES:
        corpus = {"source": "files", "path": str(folder / "raw"), "decontamination": settings | {"rule": rule}}
        corpus["decontamination"]["action"] = "drop"
        wall = time.perf_counter()
        output = run({"output": str(folder / rule), "corpus": corpus}, until="corpus") / "corpus"
        found[rule] = {"names": rejected(output), "wall": time.perf_counter() - wall}
    return {"names": list(made), "found": found, "short": sorted(short), "items": len(read)}


def rejected(corpus: Path) -> list[str]:
    """Return the ids of the contaminated documents."""
    import pyarrow.parquet as pq

    rows = [row for path in sorted((corpus / "rejected").glob("*")) for row in pq.read_table(path).to_pylist()]
    return [row["id"] for row in rows if row["reason"] == "contaminated"]


def section(results: dict[str, Any]) -> str:
    """Return the results as a section of docs/benchmarks.md."""
    names, short = results["names"], set(results["short"])
    judged = [name for name in names if name.startswith("leak") and name.split("|", 2)[2] not in short]
    kinds = Counter(tuple(name.split("|")[:2]) for name in names)
    rows = []
    for kind, total in kinds.items():
        counts = [sum(name.split("|")[:2] == list(kind) for name in results["found"][rule]["names"]) for rule in RULES]
        rows.append([kind[0], kind[1], str(total), *map(str, counts)])
    hits = [[name for name in results["found"][rule]["names"] if name.startswith("leak")] for rule in RULES]
    all_ = [results["found"][rule]["names"] for rule in RULES]
    planted = sum(name.startswith("leak") for name in names)
    ours = [len({*one} & {*judged}) / len(judged) for one in hits]
    totals = [
        ["recall, all leaks", str(planted), *(f"{len(one) / planted:.1%}" for one in hits)],
        ["recall, items that careful judges", str(len(judged)), *(f"{one:.1%}" for one in ours)],
        ["precision", "", *(f"{len(one) / max(1, len(every)):.1%}" for one, every in zip(hits, all_, strict=True))],
    ]
    sets_ = sorted({name.split("|")[2] for name in names if name.startswith("leak")})
    by_set = []
    for one in sets_:
        shares = (sum(name.split("|")[2] == one for name in own) / (ITEMS * len(WAYS)) for own in hits)
        by_set.append([one, *(f"{share:.0%}" for share in shares)])
    return "\n\n".join(
        [
            f"{results['items']:,} items, {len(names):,} documents. NeoLM at revision {results['revision']}.",
            table(["", "", "documents", *RULES], rows),
            table(["", "documents", *RULES], totals),
            table(["recall by set", *RULES], by_set),
            f"Made by `{results['command']}`.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="of the evaluation sets and texts")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="write the section into this page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    results |= {"command": command_line("decontamination"), "revision": revision()}
    publish("decontamination", section(results), results, options.output, options.docs)


if __name__ == "__main__":
    main()
