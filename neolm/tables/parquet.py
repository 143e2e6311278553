"""The rows of a Parquet file, and rows written to one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from neolm.core.errors import InputError
from neolm.tables.writer import cell_text

BATCH_ROWS = 64
GROUP_ROWS = 4096


def open_parquet(path: Path) -> tuple[tuple[str, ...], pa.Schema, Callable[[], Iterator[tuple[int, dict[str, Any]]]]]:
    """The columns of a file, its schema, and a function that reads its rows with their numbers, counted from 1.

    Raises:
        InputError: the file is damaged or of another kind.
    """
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
                for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                    for values in batch.to_pylist():
                        number += 1
                        yield number, values
        except (pa.ArrowException, OSError) as error:
            problem = str(error).splitlines()[0]
            raise InputError(f"{path}: damaged after row {number:,} ({problem})") from None

    return tuple(schema.names), schema, rows


def write_parquet(
    file: BinaryIO, rows: Callable[[], Iterator[Mapping[str, Any]]], columns: Sequence[str], known: Mapping[str, Any]
) -> None:
    """Write rows. A column has its type in `known`, or else the type of its values."""
    found: dict[str, set[type]] = {column: set() for column in columns if column not in known}
    for row in rows():
        for column, kinds in found.items():
            kinds.add(_kind(row.get(column)))
    types = [_type(found[column]) if column in found else known[column] for column in columns]
    schema = pa.schema(list(zip(columns, types, strict=True)))
    pending = rows()
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(pending, GROUP_ROWS)):
            arrays = [
                pa.array([_value(row.get(column), kind) for row in group], kind)
                for column, kind in zip(columns, types, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _kind(value: Any) -> type:
    return str if isinstance(value, int) and not -(2**63) <= value < 2**63 else type(value)


def _type(kinds: set[type]) -> pa.DataType:
    """The type of a column whose values have these types; text if they have no other in common."""
    kinds = kinds - {type(None)}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def _value(value: Any, kind: pa.DataType) -> Any:
    return cell_text(value) if kind == pa.string() and value is not None and not isinstance(value, str) else value
