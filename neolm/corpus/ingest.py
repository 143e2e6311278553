"""The first half of the corpus: raw files to clean, judged rows in scratch Parquet files, a group of files at a time.

Daft spreads the groups over cores or machines. A group writes its own scratch file while it reads, because in
Daft 0.7 generator functions and Python data sources alike hold all that they yield (2 GB of text took 5.8 GB and
2.3 GB of memory, measured); so a file of any length needs no more memory than its longest document.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neolm.corpus.config import CorpusConfig
from neolm.corpus.filters import judge
from neolm.corpus.records import Record, read_records
from neolm.corpus.sources import RawFile
from neolm.corpus.text import clean, split_text

GROUP_BYTES = 2**22  # of raw files: small enough for progress on a laptop, large enough to be worth a call
BATCH_CHARACTERS = 2**23  # of text held before it is written

# `file` and `record` say where a row was read; `digest` is of the clean text, null for rejected rows.
SCRATCH_SCHEMA = pa.schema(
    [
        ("file", pa.int64()),
        ("record", pa.int64()),
        *((name, pa.large_string()) for name in ("id", "text", "source", "licence", "metadata", "reason", "digest")),
        ("raw_bytes", pa.int64()),
        ("parts", pa.int64()),
    ]
)


def group_files(files: Sequence[RawFile]) -> list[tuple[str, int]]:
    """Files in groups of about GROUP_BYTES, each as (JSON for `ingest`, bytes). JSON holds any file name."""
    groups: list[tuple[str, int]] = []
    waiting: list[tuple[int, dict[str, Any]]] = []
    size = 0
    for number, file in enumerate(files):
        waiting.append((number, asdict(file)))
        size += file.size
        if size >= GROUP_BYTES or number == len(files) - 1:
            groups.append((json.dumps(waiting), size))
            waiting, size = [], 0
    return groups


def ingest(group: str, scratch: Path, config: CorpusConfig) -> int:
    """Read the files of `group` and write their rows to one file below `scratch`.

    Returns 0, or the `errno` of a failure to write: an exception would come back from Daft as mere text.
    """
    files = [(number, RawFile(**file)) for number, file in json.loads(group)]
    try:
        # Named by its first file, so that a repeated task replaces its own output and no other's.
        with pq.ParquetWriter(scratch / f"{files[0][0]:08d}.parquet", SCRATCH_SCHEMA) as writer:
            for batch in _batches(_rows(files, config)):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCRATCH_SCHEMA))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _rows(files: Sequence[tuple[int, RawFile]], config: CorpusConfig) -> Iterator[dict[str, Any]]:
    for number, file in files:
        for position, record in enumerate(read_records(file, config)):
            yield {"file": number, "record": position, **_judged(record, config)}


def _judged(record: Record, config: CorpusConfig) -> dict[str, Any]:
    """The columns of one record: its clean text if it is kept, its raw text and the reason if not."""
    text, reason, digest, parts = record.text, record.reason, None, 1
    if reason is None:
        cleaned = clean(text)
        reason = judge(cleaned, config)
        if reason is None:
            text, digest = cleaned, hashlib.blake2b(cleaned.encode("utf-8"), digest_size=20).hexdigest()
            parts = len(split_text(text, config.split_characters)) if config.split_characters else 1
    return {
        "id": record.id,
        "text": text,
        "source": record.source,
        "licence": record.licence,
        "metadata": record.metadata,
        "reason": reason,
        "digest": digest,
        "raw_bytes": record.size,
        "parts": parts,
    }


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row["text"])
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
