"""The corpus as Daft DataFrames: read in groups, ids made unique, duplicates found, sides decided, rows sorted.

Everything that looks across documents (ids, duplicates, the split) runs on a narrow frame without the texts,
which are joined back at the end and sorted by id. The sort is Daft's: in memory on one machine, spread on Ray.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from neolm.corpus.config import CorpusConfig
from neolm.corpus.engine import daft
from neolm.corpus.ingest import group_files, ingest
from neolm.corpus.sources import RawFile
from neolm.corpus.split import validation_score, validation_threshold
from neolm.corpus.text import split_text

col: Any = daft.col
lit, when = daft.lit, daft.functions.when
_PART = daft.DataType.struct({"id": daft.DataType.string(), "text": daft.DataType.string()})

_ingest: Any = daft.func(ingest, return_dtype=daft.DataType.int64())
_score: Any = daft.func(validation_score, return_dtype=daft.DataType.float64())


@dataclass(frozen=True)
class Verdicts:
    """What was decided about every record: a frame without texts, and the totals of what is kept."""

    frame: Any
    read: int
    read_bytes: int
    kept: int
    kept_bytes: int
    """Of the raw text, as `read_bytes`."""
    reasons: dict[str, int]
    """Rejected documents by reason."""
    threshold: float
    """Documents (or parts) whose score lies below are for validation."""


def read_files(files: Sequence[RawFile], scratch: Path, config: CorpusConfig) -> Iterator[int]:
    """Read all `files` into `scratch`; yields the bytes of each group of files that is done.

    Raises:
        OSError: `scratch` could not be written.
    """
    groups = group_files(files)
    frame = daft.from_pydict({"group": [group for group, _ in groups], "bytes": [size for _, size in groups]})
    # One group a batch: that is what Daft hands to a worker, a thread here and a task on Ray, at a time.
    frame = frame.into_batches(1)
    done = frame.select(col("bytes"), _ingest(col("group"), scratch, config).alias("failure"))
    for batch in done.to_arrow_iter():
        for failure in filter(None, batch.column("failure").to_pylist()):
            raise OSError(failure, os.strerror(failure))
        yield sum(batch.column("bytes").to_pylist())


def open_records(scratch: Path) -> Any:
    """The frame of all rows in `scratch`."""
    # Daft reads a path as a glob, and a relative one as a URL.
    literally = re.sub(r"([\\\[\]{}?*])", r"\\\1", str(scratch.resolve()))
    return daft.read_parquet(f"{literally}/*.parquet")


def decide(records: Any, config: CorpusConfig) -> Verdicts:
    """Give every record a unique id and, if it is to be dropped as a duplicate, the id of the one that stays."""
    narrow = records.select("file", "record", "id", "digest", "reason", "parts", "raw_bytes")
    frame = _with_duplicates(_with_unique_ids(narrow.collect())).collect()
    sizes = col("raw_bytes")
    totals = frame.groupby("reason").agg(sizes.count().alias("documents"), sizes.sum().alias("bytes")).to_pydict()
    documents = dict(zip(totals["reason"], totals["documents"], strict=True))
    size = dict(zip(totals["reason"], totals["bytes"], strict=True))
    return Verdicts(
        frame,
        read=sum(documents.values()),
        read_bytes=sum(size.values()),
        kept=documents.pop(None, 0),
        kept_bytes=size.get(None, 0),
        reasons=documents,
        threshold=_threshold(frame, config),
    )


def _threshold(frame: Any, config: CorpusConfig) -> float:
    """The validation threshold for the documents, or parts, that are kept."""
    ids = col("id") if config.split_characters is None else _each_part_id(col("id"), col("parts"))
    scores = frame.where(col("reason").is_null()).select(_score(ids).alias("score"))
    score = col("score")
    found = scores.agg(
        score.count().alias("documents"), score.min().alias("smallest"), score.max().alias("largest")
    ).to_pylist()[0]
    return validation_threshold(**found, fraction=config.validation_fraction) if found["documents"] else 0.0


def _with_unique_ids(frame: Any) -> Any:
    """The second record with an id becomes `id~2`, and so on, in the order of reading."""
    order = daft.Window().partition_by("id").order_by("file", "record")
    nth = daft.functions.row_number().over(order)
    while frame.count_distinct("id").to_pydict()["id"][0] < frame.count_rows():  # `a~2` may have been there before
        renamed = daft.functions.format("{}~{}", col("id"), col("nth"))
        frame = frame.with_column("nth", nth)
        frame = frame.with_column("id", when(col("nth") > 1, renamed).otherwise(col("id")))
        frame = frame.exclude("nth").collect()
    return frame


def _with_duplicates(frame: Any) -> Any:
    """Of all records with one digest the smallest id stays; the others get a reason and `copy_of`."""
    first = col("id").min().over(daft.Window().partition_by("digest"))
    is_copy = col("reason").is_null() & (col("first") != col("id"))
    frame = frame.with_column("first", first)
    return frame.select(
        "file",
        "record",
        "id",
        "parts",
        "raw_bytes",
        when(is_copy, lit("duplicate")).otherwise(col("reason")).alias("reason"),
        when(is_copy, col("first")).otherwise(lit(None)).alias("copy_of"),
    )


def final_rows(records: Any, verdicts: Verdicts, config: CorpusConfig) -> Iterator[pa.RecordBatch]:
    """The rows of the finished corpus sorted by id, each with its `side`: train, validation or rejected."""
    texts = records.select("file", "record", "text", "source", "licence", "metadata")
    frame = texts.join(verdicts.frame, on=["file", "record"]).sort("id")
    frame = frame.with_column("metadata", _mark_copy(col("metadata"), col("copy_of")))
    others = [col(name) for name in ("source", "licence", "metadata", "reason", "raw_bytes")]
    if config.split_characters is None:
        frame = frame.select(col("id"), col("text"), *others)
    else:
        frame = frame.select(_split(col("id"), col("text"), col("reason"), config.split_characters), *others)
    below = _score(col("id")) < verdicts.threshold
    side = when(col("reason").not_null(), lit("rejected")).when(below, lit("validation")).otherwise(lit("train"))
    yield from frame.with_column("side", side).to_arrow_iter()


@daft.func(return_dtype=daft.DataType.string())
def _mark_copy(metadata: str, copy_of: str | None) -> str:
    if copy_of is None:
        return metadata
    return json.dumps({**json.loads(metadata), "duplicate_of": copy_of}, ensure_ascii=False, sort_keys=True)


def part_ids(document_id: str, parts: int) -> list[str]:
    """The ids of a document's parts; one that is whole keeps its own, unless that could be mistaken for a part's."""
    if parts == 1 and not re.search(r"#\d+$", document_id):
        return [document_id]
    return [f"{document_id}#{number}" for number in range(parts)]


@daft.func(return_dtype=daft.DataType.string())
def _each_part_id(document_id: str, parts: int) -> Iterator[str]:
    yield from part_ids(document_id, parts)


@daft.func(return_dtype=_PART, unnest=True)
def _split(document_id: str, text: str, reason: str | None, limit: int) -> Iterator[dict[str, str]]:
    """The parts of a kept document; a rejected one stays whole."""
    parts = split_text(text, limit) if reason is None else [text]
    ids = part_ids(document_id, len(parts)) if reason is None else [document_id]
    for name, part in zip(ids, parts, strict=True):
        yield {"id": name, "text": part}
