"""Write sorted rows to Parquet files. The same rows give the same bytes, whatever the batches of the engine were."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neolm.corpus.documents import KEPT_SCHEMA, REJECTED_SCHEMA

ROW_GROUP_BYTES = 2**24  # bytes of text in a row group, which a reader holds in memory
FILE_BYTES = 2**28


def write_splits(
    directory: Path, batches: Iterable[pa.RecordBatch], advance: Callable[[int], None]
) -> dict[str, dict[str, int]]:
    """Write the rows of each `split` (train, validation, rejected) and return the parts and bytes of the kept text.

    `advance` is called with the bytes of the kept text of each batch.
    """
    train = TableWriter(directory / "documents", "train", KEPT_SCHEMA)
    validation = TableWriter(directory / "documents", "validation", KEPT_SCHEMA)
    rejected = TableWriter(directory / "rejected", "rejected", REJECTED_SCHEMA)
    for batch in batches:
        table = pa.Table.from_batches([batch])
        before = train.text_bytes + validation.text_bytes
        for split, writer in (("train", train), ("validation", validation), ("rejected", rejected)):
            writer.write(table.filter(pc.equal(table.column("split"), split)))
        advance(train.text_bytes + validation.text_bytes - before)
    for writer in (train, validation, rejected):
        writer.close()
    kept = {"train": train, "validation": validation}
    counts = {split: {"parts": writer.rows, "bytes": writer.text_bytes} for split, writer in kept.items()}
    return {"kept": {key: sum(counts[split][key] for split in counts) for key in ("parts", "bytes")}, **counts}


class TableWriter:
    """Writes `directory/name-00000.parquet`, `name-00001.parquet` and so on; at least one file, even without rows.

    A row group ends with the row that reaches ROW_GROUP_BYTES of text, a file with the row group that reaches
    FILE_BYTES.
    """

    def __init__(self, directory: Path, name: str, schema: pa.Schema) -> None:
        directory.mkdir(exist_ok=True)
        self.rows, self.text_bytes = 0, 0
        self._directory, self._name, self._schema = directory, name, schema
        self._pending: list[pa.Table] = []
        self._pending_bytes = self._parts = self._file_bytes = 0
        self._file: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append rows whose columns include those of the schema."""
        if not table.num_rows:
            return
        table = table.select(self._schema.names)
        sizes = pc.binary_length(table.column("text")).to_numpy().astype(np.int64)  # UTF-8 bytes of each text
        self.rows, self.text_bytes = self.rows + table.num_rows, self.text_bytes + int(sizes.sum())
        while table.num_rows:
            ends = np.cumsum(sizes) + self._pending_bytes
            cut = int(np.searchsorted(ends, ROW_GROUP_BYTES)) + 1
            self._pending.append(table.slice(0, cut))
            self._pending_bytes = int(ends[min(cut, len(ends)) - 1])
            table, sizes = table.slice(cut), sizes[cut:]
            if self._pending_bytes >= ROW_GROUP_BYTES:
                self._flush()

    def close(self) -> None:
        """Write the remaining rows and close the last file."""
        if self._pending or self._parts == 0:
            self._flush()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        # In one chunk: the pages of a Parquet file depend on the chunks of a table.
        group = pa.concat_tables(self._pending).combine_chunks() if self._pending else self._schema.empty_table()
        if self._file is None:
            path = self._directory / f"{self._name}-{self._parts:05d}.parquet"
            self._file, self._file_bytes = pq.ParquetWriter(path, self._schema, compression="zstd"), 0
            self._parts += 1
        self._file.write_table(group.cast(self._schema), row_group_size=max(1, group.num_rows))
        self._file_bytes += self._pending_bytes
        self._pending, self._pending_bytes = [], 0
        if self._file_bytes >= FILE_BYTES:
            self._file.close()
            self._file = None
