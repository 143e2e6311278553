"""Read raw files, clean and filter their text, and write the rows to scratch Parquet files, one group at a time.

Daft distributes the groups over cores or machines. A group writes its own scratch file while it reads, because
generator functions and Python data sources of Daft 0.7 keep everything that they yield (2 GB of text took 5.8 GB and
2.3 GB of memory, measured). So a file needs no more memory than its longest document, however long the file is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neolm.core.files import digest_file
from neolm.corpus.config import CorpusConfig
from neolm.corpus.filters import judge
from neolm.corpus.records import Record, read_records
from neolm.corpus.sources import RawFile
from neolm.corpus.steps import Named, apply, steps
from neolm.corpus.text import clean, has_mojibake, part_ends
from neolm.corpus.urls import normalised_url
from neolm.formats.json_values import json_text

GROUP_BYTES = 2**22  # raw bytes of a group: small enough to show progress on a laptop, large enough for a call
BATCH_CHARACTERS = 2**23  # characters in memory before they are written
BATCH_ROWS = 2**13

# `file` and `record`: where the row was read. `parent`: null unless the record states one.
# `url`: normalised, null unless documents are to differ by it. `characters`: of the text.
# `digest`: of the clean text without white space at its ends, null for rejected rows. `size`: bytes of the raw text.
SCRATCH_SCHEMA = pa.schema(
    {"file": pa.int64(), "record": pa.int64()}
    | dict.fromkeys(("id", "parent", "text", "source", "licence"), pa.large_string())
    | dict.fromkeys(("metadata", "reason", "digest", "scores", "masked"), pa.large_string())
    | dict.fromkeys(("url", "retrieved"), pa.large_string())
    | {"size": pa.int64(), "characters": pa.int64(), "parts": pa.int64(), "mojibake": pa.bool_()}
)


def group_files(files: Sequence[RawFile]) -> list[tuple[str, int]]:
    """Files in groups of about GROUP_BYTES: (JSON for `ingest`, bytes). JSON can represent any file name."""
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


def ingest(group: str, scratch: Path, config: CorpusConfig, directory: Path) -> str:
    """Read the files of `group`, write their rows to one file in `scratch`, and return its name.

    Relative paths of settings are read from `directory`, where a worker of Ray is not. The name is that of `group_name`
    with the digest of the file, so that a later run can take it over; the file gets it when it is complete. Returns
    `errno N` if writing failed: Daft would turn an exception into text.
    """
    files = [(number, RawFile(**file)) for number, file in json.loads(group)]
    partial = scratch / f".{uuid.uuid4().hex}"  # Ray may run a task twice, on two machines at the same time
    try:
        if Path.cwd() != directory:
            os.chdir(directory)
        with scratch_writer(partial) as writer:
            for batch in _batches(_rows(files, config)):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCRATCH_SCHEMA))
        name = f"{group_name(group)}-{digest_file(partial)}.parquet"
        partial.replace(scratch / name)
    except (OSError, MemoryError) as error:
        partial.unlink(missing_ok=True)
        return f"errno {errno.ENOMEM if isinstance(error, MemoryError) else error.errno or errno.EIO}"
    return name


def group_name(group: str) -> str:
    """The name of a group: the index of its first file."""
    return f"{json.loads(group)[0][0]:08d}"


def finished_groups(scratch: Path) -> dict[str, str]:
    """The intact files in `scratch` by the names of their groups. All others are removed."""
    found = {}
    for path in sorted(scratch.iterdir()):
        group, _, digest = path.stem.partition("-")
        if path.suffix == ".parquet" and group not in found and digest_file(path) == digest:
            found[group] = path.name
        else:
            path.unlink()
    return found


def scratch_writer(path: Path) -> pq.ParquetWriter:
    """A writer of rows of `SCRATCH_SCHEMA`."""
    # A dictionary and statistics of a text would be six copies of it.
    options = {"use_dictionary": ["source", "licence", "reason"], "write_statistics": ["file", "record"]}
    return pq.ParquetWriter(path, SCRATCH_SCHEMA, **options)


def _rows(files: Sequence[tuple[int, RawFile]], config: CorpusConfig) -> Iterator[dict[str, Any]]:
    wanted = steps(config)
    for number, file in files:
        for position, record in enumerate(read_records(file, config)):
            yield {"file": number, "record": position, **_judged(record, config, wanted)}


def _judged(record: Record, config: CorpusConfig, wanted: Sequence[Named]) -> dict[str, Any]:
    """The columns of one record: the clean text if it is kept, else the raw text and the reason."""
    row = {**vars(record), "parts": 1, "mojibake": False}
    row |= dict.fromkeys(("digest", "scores", "masked", "url", "retrieved"))
    text = clean(record.text)
    row["reason"] = record.reason or judge(text, config)
    if row["reason"] is None and wanted:
        metadata = json.loads(record.metadata)
        outcome = apply(wanted, text, metadata)
        text, row["reason"] = outcome.text, outcome.reason
        row["scores"] = json_text(dict(outcome.scores))
        row["masked"] = json_text(dict(outcome.masked)) if outcome.masked else None
        told = {"language": outcome.language, "why": outcome.why}
        row["metadata"] = json_text(metadata | {key: one for key, one in told.items() if one})
    if row["reason"] is None:
        row |= {
            "text": text,
            "digest": hashlib.blake2b(text.strip().encode("utf-8"), digest_size=20).hexdigest(),
            "parts": sum(1 for _ in part_ends(text, config.split_characters)) if config.split_characters else 1,
            "mojibake": has_mojibake(text),
        }
        if config.unique_urls:
            told = json.loads(record.metadata)
            row |= {"url": normalised_url(told.get("url")), "retrieved": str(told.get("retrieved") or "")}
    row["characters"] = len(row["text"])
    return row


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row["text"]) + len(row["metadata"])
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_ROWS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
