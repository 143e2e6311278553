"""The evaluation sets of `corpus.decontamination`: the official files of tasks, and tables of the user."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError, SettingError
from neolm.core.files import expanded
from neolm.corpus.config import DecontaminationConfig, EvaluationTableConfig
from neolm.corpus.evaluation_items import EvaluationSets, Item
from neolm.tables.benchmarks import BENCHMARKS, benchmark_file, open_benchmark
from neolm.tables.table import Row, open_table, table_suffix


def evaluation_sets(config: DecontaminationConfig) -> EvaluationSets:
    """The sets that the settings name. A file that is missing is said when the items are read.

    Raises:
        SettingError: a task is unknown.
    """
    files = {name: _task_file(name, config) for name in config.tasks}
    files |= {table.name: expanded(table.path) for table in config.tables}

    def items() -> Iterator[Item]:
        for name in config.tasks:
            yield from _checked("data", _task(name, files[name]), name)
        for number, table in enumerate(config.tables):
            yield from _checked(f"tables.{number}", _table(table), table.name)

    return EvaluationSets(files, items)


def _checked(key: str, items: Iterator[Item], name: str) -> Iterator[Item]:
    """The items of a set; errors name the setting."""
    found = False
    try:
        for item in items:
            found = True
            yield item
        if not found:
            raise InputError(f"the evaluation set {name} is empty")
    except InputError as error:
        raise SettingError(f"decontamination.{key}", str(error)) from None


def _task_file(name: str, config: DecontaminationConfig) -> Path:
    """The file of the validation part of a task, or the folder that does not have it."""
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=3, cutoff=0.4) or BENCHMARKS
        raise SettingError("decontamination.tasks", f"there is no task {name!r}; did you mean {', '.join(near)}?")
    folder = expanded(str(config.data))
    suite = folder / name.partition("/")[0]
    place = suite if suite.is_dir() else folder
    return (place.is_dir() and benchmark_file(name, place, "validation")) or folder


def _task(name: str, path: Path) -> Iterator[Item]:
    if not path.is_file():
        folder, suffix = BENCHMARKS[name].folder, BENCHMARKS[name].suffix
        raise InputError(f"{path}: there is no {folder}/dev{suffix} or {folder}/val{suffix} in it, for {name}")
    for number, row in enumerate(open_benchmark(name, path).rows()):
        yield _task_item(name, f"{path.name}:{row.line}#{number}", row)


def _task_item(name: str, place: str, row: Row) -> Item:
    """An item of a task. Its label has to be known, but no text has to have it."""
    benchmark, value = BENCHMARKS[name], {key: _text(found) for key, found in row.values.items()}
    problem = "cannot be read" if row.problem else None if value.get("label") else "no answer"
    if benchmark.task == "choice":
        return Item(name, place, tuple(value.get(key, "") for key in ("text", "choice1", "choice2")), problem=problem)
    question, other = (value.get(column, "") for column in benchmark.texts)
    if benchmark.passage is None:  # one sentence; or two, each of which may come from elsewhere
        return Item(name, place, (question,), (other,) * benchmark.pair, both=benchmark.pair, problem=problem)
    question, passage = (other, question) if benchmark.passage == "text" else (question, other)
    return Item(name, place, (question,), passage=passage, both=True, problem=problem)


def _table(config: EvaluationTableConfig) -> Iterator[Item]:
    path = expanded(config.path)
    for file in sorted(filter(_is_table, path.rglob("*"))) if path.is_dir() else [path]:
        table = open_table(file)
        question = [table.column(column) for column in config.question]
        answer, passage = (name and table.column(name) for name in (config.answer, config.passage))
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        for row in table.rows():
            answers = _texts(row.values.get(answer)) if answer else ()
            problem = "cannot be read" if row.problem else "no answer" if answer and not answers else None
            texts = tuple(_text(row.values.get(column)) for column in question)
            about = _text(row.values.get(passage)) if passage else ""
            yield Item(config.name, f"{name}:{row.line}", texts, answers, about, passage is not None, problem)


def _is_table(file: Path) -> bool:
    try:
        return bool(table_suffix(file)) and file.is_file()
    except InputError:
        return False


def _text(value: Any) -> str:
    return "\n".join(_texts(value))


def _texts(value: Any) -> tuple[str, ...]:
    """The texts of a cell: of a list those in it, of an object, as in SQuAD, those under `text`."""
    value = value.get("text") if isinstance(value, Mapping) else value
    values = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(str(one) for one in values if one is not None and str(one).strip())
