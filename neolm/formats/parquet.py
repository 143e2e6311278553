"""Read the rows of a Parquet file as JSON objects, a few at a time, in bounded memory.

A damaged row group does not affect the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from neolm.core.chunks import DamageError
from neolm.formats.parquet_pages import RowGroup, read_pages, read_row_groups
from neolm.formats.parquet_values import as_text, column_values, is_binary, is_text, stored_type

BATCH_ROWS = 256
BATCH_BYTES = 2**26  # of the rows that are unpacked together
PAGE_BYTES = 2**27  # a larger page is refused, unless documents may be larger than that
LIST_VALUES = 2**26  # values of the lists of a column in one row group: one row may hold them all


def read_rows(
    path: Path, names: Collection[str], text_key: str, limit: int
) -> Iterator[tuple[int, Mapping[str, Any] | DamageError]]:
    """The rows of a file with the columns in `names`, each with its number, counted from 1.

    A row that cannot be read is a `DamageError`. So is the first row that cannot be read of a damaged row group, whose
    other rows are left out.

    Raises:
        DamageError: there is no column of text.
        Exception: the library cannot read the file; which exceptions it raises is not documented.
    """
    with path.open("rb") as raw:
        groups = read_row_groups(raw)
        metadata = pq.read_metadata(raw)
        stored = {index: metadata.schema.column(index) for index in range(len(metadata.schema))}
        leaves = {index: leaf.path for index, leaf in stored.items() if _is_below(leaf.path, names)}
        # Texts in lists stay in their dictionary: a list of a million references to one long text is a small page.
        lists = {index: path for index, path in leaves.items() if stored[index].max_repetition_level}
        options = {"pre_buffer": False, "buffer_size": 2**20, "page_checksum_verification": True}
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=list(lists.values()), **options) as file:
            _check_text(file.schema_arrow, text_key)
            columns = [name for name in file.schema_arrow.names if name in names]
            end = 0
            for number, group in enumerate(groups):
                row, end = end, end + group.rows
                try:
                    rows = _rows_together(raw, group, leaves, lists, limit)
                    for batch in file.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False):
                        for value in _objects(batch, text_key, limit):
                            row += 1
                            yield row, value
                except DamageError as error:
                    yield row + 1, error
                except Exception as error:  # pyarrow raises whatever it meets
                    yield row + 1, DamageError("unreadable", first_line(error))


def first_line(error: Exception) -> str:
    """The first line of the message of `error`, or the name of its type."""
    return str(error).split("\n", maxsplit=1)[0] or type(error).__name__


def _is_below(path: str, names: Collection[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _check_text(schema: pa.Schema, text_key: str) -> None:
    """Raise `DamageError` if there is no column `text_key`, or if it holds neither text nor bytes."""
    if text_key not in schema.names:
        raise DamageError("missing_text", f"no column '{text_key}'; the columns are {', '.join(schema.names[:20])}")
    kind = schema.field(schema.names.index(text_key)).type
    if not is_text(stored_type(kind)) and not is_binary(stored_type(kind)):
        raise DamageError("missing_text", f"the column '{text_key}' is {kind}, not text")


def _rows_together(
    raw: BinaryIO, group: RowGroup, leaves: Mapping[int, str], lists: Collection[int], limit: int
) -> int:
    """The number of rows whose values take at most BATCH_BYTES together, however they are encoded; at least 1.

    No value is larger than the largest page (or dictionary) of its column.

    Raises:
        DamageError: a page has more than `limit` bytes and PAGE_BYTES, or a list may have more than LIST_VALUES values.
    """
    row_bytes = 0
    for index, path in leaves.items():
        largest = values = 0
        for page in read_pages(raw, *group.columns[index]):
            largest, values = max(largest, page.size), values + page.values
        if largest > max(limit, PAGE_BYTES):
            raise DamageError("too_large", f"a page of the column '{path}' has {largest:,} bytes")
        if index in lists and values > LIST_VALUES:
            raise DamageError("too_large", f"the lists of the column '{path}' have more than {LIST_VALUES:,} values")
        row_bytes += largest
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))


def _objects(batch: pa.RecordBatch, text_key: str, limit: int) -> Iterator[Mapping[str, Any] | DamageError]:
    """The rows of a batch. A row with a cell that cannot be read is the damage of the cell."""
    names = batch.schema.names
    columns = [
        column_values(as_text(column) if name == text_key else column, limit)
        for name, column in zip(names, batch.columns, strict=True)
    ]
    for cells in zip(*columns, strict=True):
        damage = next((cell for cell in cells if isinstance(cell, DamageError)), None)
        yield damage or dict(zip(names, cells, strict=True))
