"""A table with columns added to its rows, in their order: in constant memory, and resumed after a kill.

The results of the rows are kept in a journal. When all are there, the table is read again and written with them, so
that the file is the same, bit for bit, whether the work was interrupted or not.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neolm.core.errors import InputError
from neolm.core.files import check_output_file, digest_file
from neolm.core.progress import say, task
from neolm.core.ranks import ONE_RANK, RunRanks
from neolm.tables.journal import Summary, open_journal
from neolm.tables.table import Row, Table, open_table
from neolm.tables.writer import check_format, write_table

Compute = Callable[[Sequence[Row]], Sequence[Mapping[str, Any]]]
"""The columns that each row of a batch gets."""


def check_target(table: Table, target: Path, added: Sequence[str]) -> None:
    """Raise `InputError` if `target` cannot be written, or is a file without the added columns."""
    check_format(target)
    check_output_file(target, "predictions.csv", "a table", mark="")
    if not target.exists():
        return
    if target.samefile(table.path):
        raise InputError(f"{target}: input and output are the same file")
    if not target.stat().st_size:
        return
    columns: Sequence[str] = ()
    with contextlib.suppress(InputError):
        columns = open_table(target, header=True).columns
    if not {*added} - {"error"} <= {*columns}:
        raise InputError(f"{target}: this file has no column {added[0]!r}, so it is not replaced. Give another file")


def extend_table(
    table: Table,
    target: Path,
    added: Sequence[str],
    compute: Compute,
    work: Mapping[str, Any],
    batch_size: int,
    ranks: RunRanks = ONE_RANK,
) -> Summary:
    """Write the rows of `table` with the columns `added` to `target`. All ranks call this; rank 0 counts and writes.

    A column of the table that has the name of an added one is called `given_NAME` in `target`.

    Args:
        table: The table.
        target: The file to write; see `check_target`.
        added: Names of the added columns.
        compute: Computes them for a batch of rows.
        work: What the results follow from, besides the table and `batch_size`. Nothing is resumed if it has changed.
        batch_size: Rows computed at a time.
        ranks: The connected processes that share the batches.
    """
    if not ranks.first:
        done = next(ranks.heard())["done"]
        for _ in _computed(itertools.islice(table.rows(), done, None), compute, batch_size, ranks):
            pass
        return Summary()
    work = {**work, "input": digest_file(table.path), "columns": table.columns, "batch_size": batch_size}
    names = _names(table, added)
    with open_journal(target, work, batch_size) as journal:
        done = journal.summary.rows
        ranks.tell({"done": done})
        if done:
            say(f"{target}: {done:,} rows were done before; resuming at row {done + 1:,}")
        with task("Computing", None, "rows", done) as shown:
            for batch in _computed(itertools.islice(table.rows(), done, None), compute, batch_size, ranks):
                journal.append([(row.line, result) for row, result in batch])
                shown.advance(len(batch))

        def rows() -> Iterator[Mapping[str, Any]]:
            for row, result in zip(table.rows(), journal.results(), strict=True):
                yield _extended(row, result, names)

        columns = [*(names.get(column, column) for column in table.columns), *added] if table.complete else None
        types = {names.get(field.name, field.name): field.type for field in table.schema or []}
        write_table(target, rows, columns, types)
    return journal.summary


def extended_rows(
    table: Table,
    added: Sequence[str],
    compute: Compute,
    batch_size: int,
    summary: Summary,
    ranks: RunRanks = ONE_RANK,
) -> Iterator[Mapping[str, Any]]:
    """The rows with the added columns as they are computed, counted in `summary`; the same on all ranks."""
    names = _names(table, added)
    for batch in _computed(table.rows(), compute, batch_size, ranks):
        summary.add([(row.line, result) for row, result in batch])
        for row, result in batch:
            yield _extended(row, result, names)


def _computed(
    rows: Iterator[Row], compute: Compute, batch_size: int, ranks: RunRanks
) -> Iterator[Sequence[tuple[Row, Mapping[str, Any]]]]:
    batches = iter(lambda: list(itertools.islice(rows, batch_size)), [])
    for batch, results in ranks.map(compute, batches):
        yield list(zip(batch, results, strict=True))


def _names(table: Table, added: Sequence[str]) -> dict[str, str]:
    """New names of the given columns that have the name of an added one."""
    names = {}
    for column in (column for column in table.columns if column in added):
        name = f"given_{column}"
        while name in table.columns:
            name = f"given_{name}"
        names[column] = name
        say(f"{table.path}: the column {column!r} is called {name!r} in the output")
    return names


def _extended(row: Row, result: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    return {**{names.get(column, column): value for column, value in row.values.items()}, **result}
