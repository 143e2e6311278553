"""The tables of a fine-tuning: training and validation examples, with an inventory of what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError, SettingError
from neolm.core.files import expanded
from neolm.core.progress import say
from neolm.finetuning.config import FinetuneConfig
from neolm.finetuning.open_part import open_part, part_files
from neolm.prediction.targets import Targets, label_order
from neolm.tables.examples import Examples, describe, read_examples
from neolm.tables.inventory import find_leakage, take_inventory
from neolm.tables.joined import joined, relabelled
from neolm.tables.split import split_examples


@dataclass(frozen=True)
class FinetuneData:
    """Examples and what their labels stand for."""

    training: Examples
    validation: Examples
    targets: Targets
    drawn: bool
    """Whether the validation examples were drawn from the training table."""
    inventory: Mapping[str, Any]
    """What was found in the tables, for the report."""
    outside: Sequence[tuple[str, ...]] = ()
    """Texts, or pairs, that have none of the labels."""


def read_data(config: FinetuneConfig, seed: int) -> FinetuneData:
    """Read the tables, and print what is in them and what is wrong with them.

    Raises:
        InputError: a table or a column is missing, no row can be used, all labels are the same, or a label of a
            regression is not a number.
    """
    files = part_files(config)
    tables = _read_tables(files, config) if config.tables else []
    parts = [(table.path, examples) for table, (examples, _) in zip(config.tables, tables, strict=True)]
    everything = joined(expanded(config.train), parts) if parts else _read(files["train"], config, "train")
    given = _read(files["validation"], config, "validation") if "validation" in files else None
    taken = take_inventory(everything)
    for line in taken.lines():
        say(line)
    outside: list[tuple[str, ...]] = []
    label = config.out_of_scope_label
    if label is not None and "out_of_scope_label" not in config.without_effect():
        everything, outside = _in_scope(everything, label)
        if given is not None:
            given, more = _in_scope(given, label)
            outside += more
        if not outside:
            raise InputError(f"finetune.out_of_scope_label: no example has the label {label!r}")
        say(f"finetune: {len(outside):,} examples have the label {label!r}; none is trained on")
    targets = _targets(everything, config)
    if given is None:
        training, validation = split_examples(everything, config.validation_share, seed)
        say(f"{everything.path}: {len(validation):,} of {len(everything):,} examples are drawn for validation")
    else:
        training, validation = everything, given
    validation = targets.known(validation)
    found: dict[str, Any] = {"train": taken.as_json(), "tables": [described for _, described in tables]}
    if given is not None:
        leakage = find_leakage(training, validation)
        lines = [*take_inventory(validation).lines(), *leakage.lines()] if targets.problem != "regression" else []
        for line in lines:
            say(line)
        found |= {"validation": take_inventory(validation).as_json(), "leakage": leakage.as_json()}
    return FinetuneData(training, validation, targets, given is None, found, outside)


def _read_tables(files: Mapping[str, Path], config: FinetuneConfig) -> list[tuple[Examples, dict[str, Any]]]:
    """The examples of each of several tables, and what its labels are trained on as, for the report."""
    tables = []
    for number, table in enumerate(config.tables):
        path = files["train" if not number else f"train {number + 1}"]
        given = _read(path, config.of_table(table), f"tables.{number}")
        labels = table.labels or {name: name for name in given.labels}
        try:
            examples = relabelled(given, labels)
        except InputError as error:
            raise InputError(f"finetune.tables.{number}.labels: {error}") from None
        counts = Counter(given.labels)
        rows = [(name, counts[name], labels[name]) for name in label_order(given.labels)]
        shown = ", ".join(f"{a!r} ({n:,}) is {'left out' if b is None else repr(b)}" for a, n, b in rows)
        say(f"{path}: {len(examples):,} examples; {shown}")
        tables.append((examples, {"path": table.path, "examples": len(examples), "labels": rows}))
    return tables


def _read(path: Path, config: FinetuneConfig, key: str) -> Examples:
    try:
        table = open_part(config, path)
        label = config.label_column[0] if len(config.label_column) == 1 else config.label_column
        group = config.group_column if key != "validation" else None
        examples = read_examples(table, config.text_column, label, config.second, group)
    except SettingError:
        raise
    except InputError as error:
        raise InputError(f"finetune.{key}: {error}") from None
    for line in describe(examples.left_out):
        say(f"{path}: {line}")
    return examples


def _in_scope(examples: Examples, label: str) -> tuple[Examples, list[tuple[str, ...]]]:
    """The examples with other labels, and the texts of those with this one."""
    outside = [text for text, name in zip(examples.inputs(), examples.labels, strict=True) if name == label]
    kept = [number for number, name in enumerate(examples.labels) if name != label]
    return replace(examples.select(kept), left_out=examples.left_out), outside


def _targets(training: Examples, config: FinetuneConfig) -> Targets:
    if config.kind == "regression":
        return Targets("regression", (config.label_column[0],))
    if training.label_sets is not None:
        return Targets("multi_label_classification", tuple(config.label_column))
    names = label_order(training.labels)
    if len(names) < 2:
        raise InputError(
            f"{training.path}: every training example has the label {names[0]!r}; a classifier needs two labels"
        )
    return Targets("single_label_classification", names)
