"""The tasks of GLUE and SuperGLUE by name, from their official files (Wang et al. 2018, 2019).

A task is a table with the columns `text`, perhaps `second`, and `label`; COPA has `choice1` and `choice2` too. Labels
have names. SuperGLUE's WSC and ReCoRD are left out: they are not about a text or a pair as a whole.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from neolm.core.chunks import COMPRESSIONS
from neolm.core.errors import InputError
from neolm.tables.table import Row, Table, open_table

Values = Mapping[str, Any]
PARTS = {"train": ("train",), "validation": ("dev", "val", "validation")}
"""Names of the files of each part."""


@dataclass(frozen=True)
class Benchmark:
    """One task: its folder, what the model learns, and the scores by which it is judged."""

    folder: str
    task: str
    metrics: tuple[str, ...]
    examples: Callable[[Values], Iterator[Values]]
    """The examples of a row of the file."""
    pair: bool = True
    suffix: str = ".tsv"
    header: bool = True
    texts: tuple[str, str] = ("text", "second")
    """Columns with the texts of a pair as they are in the file."""
    passage: Literal["text", "second"] | None = None
    """Which of a pair is a text that the other one is about."""


def _columns(text: str, second: str, label: str, *names: str) -> Callable[[Values], Iterator[Values]]:
    """Examples with these columns; label 0 has the first of `names`, 1 the second."""

    def examples(values: Values) -> Iterator[Values]:
        found = values.get(label)
        number = str(found)
        found = names[int(number)] if number.isdecimal() and int(number) < len(names) else found
        yield {"text": values.get(text), "second": values.get(second), "label": found}

    return examples


def _copa(values: Values) -> Iterator[Values]:
    asked = {"cause": "What was the cause?", "effect": "What happened as a result?"}
    yield {**values, "text": values.get("premise"), "second": asked.get(str(values.get("question")))}


def _wic(values: Values) -> Iterator[Values]:
    """Each sentence with the word whose meaning is compared in front of it."""
    first, second = (f"{values.get('word')}: {values.get(name)}" for name in ("sentence1", "sentence2"))
    yield {**values, "text": first, "second": second, "label": values.get("label")}


def _multirc(values: Values) -> Iterator[Values]:
    passage = values.get("passage") or {}
    for question in passage.get("questions", []):
        for answer in question.get("answers", []):
            label = {0: "false", 1: "true"}.get(answer.get("label"))
            yield {"text": passage.get("text"), "second": f"{question['question']} {answer['text']}", "label": label}


_ENTAILED = _columns("sentence1", "sentence2", "label", "not_entailment", "entailment")
BENCHMARKS = {
    "glue/cola": Benchmark(
        *("CoLA", "classification", ("matthews",)),
        _columns("column_4", "", "column_2", "unacceptable", "acceptable"),
        pair=False,
        header=False,
    ),
    "glue/sst2": Benchmark(
        "SST-2", "classification", ("accuracy",), _columns("sentence", "", "label", "negative", "positive"), pair=False
    ),
    "glue/mrpc": Benchmark(
        "MRPC", "pair", ("accuracy", "f1"), _columns("#1 String", "#2 String", "Quality", "different", "equivalent")
    ),
    "glue/stsb": Benchmark("STS-B", "regression", ("pearson", "spearman"), _columns("sentence1", "sentence2", "score")),
    "glue/qnli": Benchmark("QNLI", "pair", ("accuracy",), _columns("question", "sentence", "label"), passage="second"),
    "glue/rte": Benchmark("RTE", "pair", ("accuracy",), _ENTAILED, passage="text"),
    "glue/wnli": Benchmark("WNLI", "pair", ("accuracy",), _ENTAILED, passage="text"),
    "superglue/boolq": Benchmark(
        *("BoolQ", "pair", ("accuracy",)), _columns("question", "passage", "label"), suffix=".jsonl", passage="second"
    ),
    "superglue/cb": Benchmark(
        *("CB", "pair", ("accuracy", "macro_f1")),
        _columns("premise", "hypothesis", "label"),
        suffix=".jsonl",
        passage="text",
    ),
    "superglue/copa": Benchmark("COPA", "choice", ("accuracy",), _copa, suffix=".jsonl"),
    "superglue/multirc": Benchmark("MultiRC", "pair", ("f1",), _multirc, suffix=".jsonl", passage="text"),
    "superglue/rte": Benchmark(
        *("RTE", "pair", ("accuracy",)), _columns("premise", "hypothesis", "label"), suffix=".jsonl", passage="text"
    ),
    "superglue/wic": Benchmark(
        *("WiC", "pair", ("accuracy",)), _wic, suffix=".jsonl", texts=("sentence1", "sentence2")
    ),
}


def benchmark_file(name: str, folder: Path, part: str) -> Path | None:
    """The file of a part of a task in `folder`, or in its subfolder with the name of the task; None if it is missing.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: this is not a folder; {name} is read from the official files in a folder")
    found = BENCHMARKS[name]
    subfolders = [place for place in sorted(folder.iterdir()) if _plain(place.name) == _plain(found.folder)]
    names = (f"{stem}{found.suffix}{packed}" for stem in PARTS[part] for packed in ("", *COMPRESSIONS))
    places = (place / file for file, place in itertools.product(names, [*subfolders, folder]))
    return next((place for place in places if place.is_file()), None)


def missing_file(name: str, folder: Path) -> InputError:
    """The error for a task without training examples, with the names that were looked for."""
    found = BENCHMARKS[name]
    held_out = benchmark_file(name, folder, "validation")
    there = f"; there is only {held_out.relative_to(folder)}" if held_out else ""
    looked = f"{found.folder}/train{found.suffix}, also {', '.join(COMPRESSIONS)}"
    return InputError(f"{folder}: there are no training examples of {name}: looked for {looked}{there}")


def open_benchmark(name: str, path: Path) -> Table:
    """The table of a file of a task. Quotes in its TSV files are plain characters."""
    found = BENCHMARKS[name]
    header = found.header if found.suffix == ".tsv" else None
    table = open_table(path, header, delimiter="\t" if found.suffix == ".tsv" else None, quoted=False)

    def rows() -> Iterator[Row]:
        for row in table.rows():
            yield from ([row] if row.problem else (row._replace(values=one) for one in found.examples(row.values)))

    columns = ("text", "second", "choice1", "choice2", "label")
    return replace(table, columns=columns, rows=rows, guess="", numbered=False)


def _plain(name: str) -> str:
    return re.sub(r"\W", "", name.lower())
