"""The tables of a fine-tuning: files, or the official files of a benchmark in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from neolm.core.chunks import COMPRESSIONS
from neolm.core.errors import InputError
from neolm.core.files import expanded
from neolm.core.progress import say
from neolm.finetuning.config import FinetuneConfig
from neolm.tables.benchmarks import benchmark_file, missing_file, open_benchmark
from neolm.tables.split import drawn_numbers
from neolm.tables.table import Table, open_table

T = TypeVar("T")


def drawn_apart(
    items: Sequence[T], keys: Sequence[str], noun: str, config: FinetuneConfig, seed: int
) -> tuple[list[T], list[T]]:
    """The training and the validation part of `items`; those with the same key are not divided.

    Raises:
        InputError: all have the same key.
    """
    drawn = drawn_numbers(keys, None, [""] * len(keys), config.validation_share, seed)
    if not drawn:
        raise InputError(f"{config.train}: no validation part can be drawn; give a table of validation {noun}")
    say(f"{config.train}: {len(drawn):,} of {len(items):,} {noun} are drawn for validation")
    kept, aside = ([one for n, one in enumerate(items) if (n in drawn) == part] for part in (False, True))
    return kept, aside


def part_files(config: FinetuneConfig) -> dict[str, Path]:
    """The files of `train` and, if there is one, `validation`; of several tables, `train`, `train 2` and so on.

    Raises:
        InputError: a benchmark has no training examples in its folder.
    """
    given = {"train": config.train, "validation": config.validation}
    places = {part: expanded(path) for part, path in given.items() if path is not None}
    folder = places["train"]
    for number, table in enumerate(config.tables, start=1):
        place = folder / expanded(table.path)
        files = [place, *(place.with_name(place.name + packed) for packed in COMPRESSIONS)]
        places["train" if number == 1 else f"train {number}"] = next((one for one in files if one.is_file()), place)
    if config.benchmark is None:
        return places
    found = {part: benchmark_file(config.benchmark, places.get(part, folder), part) for part in given}
    if found["train"] is None:
        raise missing_file(config.benchmark, folder)
    return {part: path for part, path in found.items() if path is not None}


def open_part(config: FinetuneConfig, path: Path) -> Table:
    """The table in a file of `part_files`; prints what was guessed about it."""
    if config.benchmark is not None:
        return open_benchmark(config.benchmark, path)
    table = open_table(path, config.header, config.delimiter, config.encoding)
    if table.guess:
        say(table.guess)
    return table
