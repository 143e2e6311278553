"""The corpus as Daft DataFrames: read in groups, make ids unique, find duplicates, hold out documents, sort.

Everything that compares documents (ids, duplicates, the split) runs on a narrow frame without the texts. The texts
are joined back at the end and sorted by id, in ranges of ids that fit in memory.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from neolm.core.errors import InputError, NeoLMError
from neolm.corpus.config import CorpusConfig, KeepConfig
from neolm.corpus.decontaminate import Contamination, find_contamination
from neolm.corpus.engine import daft
from neolm.corpus.evaluation_items import EvaluationIndex
from neolm.corpus.ingest import finished_groups, group_files, group_name, ingest
from neolm.corpus.near_duplicates import NearDuplicates, find_near_duplicates
from neolm.corpus.repeated_text import find_repeated_text, without
from neolm.corpus.sorting import sorted_by_id
from neolm.corpus.sources import RawFile
from neolm.corpus.text import split_text
from neolm.formats.json_values import json_text

col: Any = daft.col
lit, when = daft.lit, daft.functions.when
SOURCES_SHOWN = 20
_PART = daft.DataType.struct({"id": daft.DataType.string(), "text": daft.DataType.string()})

_without: Any = daft.func(without, return_dtype=daft.DataType.string())
_ingest: Any = daft.func(ingest, return_dtype=daft.DataType.string())


def validation_score(name: str) -> float:
    """A number in [0, 1), uniform over ids and a function of the id alone: the first 53 bits of BLAKE2b.

    So the split of a document stays the same as a corpus grows.
    """
    digest = hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


_score: Any = daft.func(validation_score, return_dtype=daft.DataType.float64())


@dataclass(frozen=True)
class Verdicts:
    """The decision about every record: a frame without texts, and the totals for the manifest."""

    frame: Any
    counts: dict[str, Any]
    kept_bytes: int
    """Raw bytes of the kept documents."""
    held_out: Literal["documents", "parts"]
    """The unit of the validation split: parts only if all text comes from one document."""
    threshold: float
    """Units with a smaller validation score are held out."""
    mojibake_file: int | None
    """Index of the first file with mojibake in a kept document."""
    contamination: Contamination | None = None


def read_files(files: Sequence[RawFile], scratch: Path, config: CorpusConfig) -> Iterator[tuple[int, bool]]:
    """Read all `files` into `scratch`; yield the bytes of each finished group, and whether it was there already.

    Raises:
        OSError: writing fails.
        NeoLMError: there is not enough memory.
    """
    present = finished_groups(scratch)
    groups = {group_name(group): (group, size) for group, size in group_files(files)}
    for name in groups.keys() & present.keys():
        yield groups.pop(name)[1], True
    if not groups:
        return
    todo, sizes = zip(*groups.values(), strict=True)
    frame = daft.from_pydict({"group": list(todo), "bytes": list(sizes)})
    # One group per batch: Daft gives a worker (a thread, or a task on Ray) one batch at a time.
    frame = frame.into_batches(1)
    done = frame.select(col("bytes"), _ingest(col("group"), scratch.resolve(), config, Path.cwd()).alias("name"))
    written = {*present.values()}
    for batch in done.to_arrow_iter():
        for size, name in zip(*(batch.column(key).to_pylist() for key in ("bytes", "name")), strict=True):
            if name.startswith("errno "):
                _raise_failure(int(name.removeprefix("errno ")), scratch)
            written.add(name)
            yield size, False
    for path in scratch.iterdir():  # of a task that Ray ran twice, with another result
        if path.name not in written:
            path.unlink()


def _raise_failure(number: int, scratch: Path) -> None:
    if number == errno.ENOMEM:
        raise NeoLMError(
            "corpus: not enough memory to read the files; lower the limit with corpus.max_document_bytes=N"
        )
    if number == errno.ENOENT:
        raise InputError(f"{scratch.parent.parent}: the workers of the cluster do not see this directory")
    raise OSError(number, os.strerror(number))


def open_records(scratch: Path) -> Any:
    """The frame of all rows in `scratch`."""
    # Daft expands a path as a glob pattern, and parses a relative one as a URL.
    literally = re.sub(r"([\\\[\]{}?*])", r"\\\1", str(scratch.resolve()))
    return daft.read_parquet(f"{literally}/*.parquet")


def first_errors(records: Any) -> dict[str, str]:
    """An error message for each reason with which a record could not be read."""
    rejected = records.where(col("reason").not_null())
    found = rejected.groupby("reason").agg(col("metadata").min()).to_pylist()
    errors = {row["reason"]: json.loads(row["metadata"]).get("error") for row in found}
    return {reason: error for reason, error in errors.items() if isinstance(error, str)}


def decide(records: Any, config: CorpusConfig, scratch: Path, index: EvaluationIndex | None = None) -> Verdicts:
    """Give every record a unique id, find the duplicates and the items of `index`, and choose what is held out."""
    columns = ("file", "record", "id", "parent", "source", "digest", "url", "retrieved", "characters", "reason")
    narrow = records.select(*columns, "parts", "size", "mojibake", "masked")
    frame = _with_duplicates(_with_unique_ids(narrow.collect()), config).collect()
    near: dict[str, Any] = {}
    if config.near_duplicates is not None:
        documents = frame.where(col("reason").is_null()).select(
            *("file", "record", "id", "parent", "source", "characters")
        )
        found = find_near_duplicates(records, documents, config.near_duplicates, scratch)
        frame, near = _with_near_duplicates(frame, found, config.near_duplicates.action).collect(), found.counts
    contamination = None
    if index is not None:
        documents = frame.where(col("reason").is_null()).select("file", "record", "id")
        contamination = find_contamination(records, documents, index, config.split_characters)
        frame = _with_contamination(frame, contamination).collect()
    cut: dict[str, Any] = {}
    if config.repeated_text is not None:
        documents = frame.where(col("reason").is_null()).select("file", "record", "id", "source", "characters")
        texts = records if contamination is None else _without_items(records, contamination)
        marks, cut = find_repeated_text(texts, documents, config.repeated_text, config.split_characters)
        frame = frame if marks is None else _with_cuts(frame, daft.from_arrow(marks))
    rows, size = col("size").count().alias("documents"), col("size").sum().alias("bytes")
    documents = col("parent").count_distinct().alias("documents")
    rejected = {row.pop("reason"): row for row in frame.groupby("reason").agg(rows, size).to_pylist()}
    kept_bytes = rejected.pop(None, {"bytes": 0})["bytes"]
    kept = frame.where(col("reason").is_null())
    sources = kept.groupby("source").agg(documents).sort(["documents", "source"], desc=[True, False])
    mojibake = kept.where(col("mojibake")).agg(documents, col("file").min()).to_pylist()[0]
    masked: Counter[str] = Counter()
    for row in kept.where(col("masked").not_null()).groupby("masked").agg(col("file").count()).to_pylist():
        masked += Counter({kind: number * row["file"] for kind, number in json.loads(row["masked"]).items()})
    held_out, threshold, split = _held_out(kept, config)
    read = {"documents": split["kept"], "bytes": kept_bytes}
    counts = {
        "read": {key: number + sum(row[key] for row in rejected.values()) for key, number in read.items()},
        "rejected": {reason: rejected[reason] for reason in sorted(rejected)},
        **{name: {"documents": number} for name, number in split.items()},
        "held_out": held_out,
        "sources": {row["source"]: row["documents"] for row in sources.limit(SOURCES_SHOWN).to_pylist()},
        "mojibake": mojibake["documents"],
        **({"near_duplicates": near} if near else {}),
        **({} if config.url is None else {"without_url": _without_url(records)}),
        **({"contamination": contamination.counts} if contamination else {}),
        **({"repeated_text": cut} if cut else {}),
        "masked": {kind: masked[kind] for kind in sorted(masked)},
    }
    return Verdicts(frame, counts, kept_bytes, held_out, threshold, mojibake["file"], contamination)


def _without_url(records: Any) -> int:
    """Number of records that came to the rules for URLs and have none."""
    return int(records.where(col("scores").contains('"url.missing"')).count_rows())


def _held_out(kept: Any, config: CorpusConfig) -> tuple[Literal["documents", "parts"], float, dict[str, int]]:
    """The unit of the split, its threshold, and the number of source documents: kept, train and validation."""
    documents = kept.select("parent", _score(col("group")).alias("score")).distinct().collect()
    number, scores = documents.count_rows(), documents.select("score").distinct()
    if number > 1:  # no threshold divides a single cluster of near-duplicates: all of it is for training
        threshold = _threshold(scores, config.validation_fraction)
        validation = documents.where(col("score") < threshold).count_rows()
        return "documents", threshold, {"kept": number, "train": number - validation, "validation": validation}
    ids = col("id") if config.split_characters is None else _each_part_id(col("id"), col("parts"))
    threshold = _threshold(kept.select(_score(ids).alias("score")), config.validation_fraction)
    split = {"kept": number, "train": number, "validation": int(threshold > 0)}
    return "parts" if threshold > 0 else "documents", threshold, split


def _threshold(scores: Any, fraction: float) -> float:
    """The validation threshold for a frame of scores."""
    score = col("score")
    found = scores.agg(score.count().alias("units"), score.min().alias("smallest"), score.max().alias("largest"))
    return validation_threshold(**found.to_pylist()[0], fraction=fraction)


def validation_threshold(units: int, smallest: float | None, largest: float | None, fraction: float) -> float:
    """The score below which a unit (a document or a part) is for validation.

    It is `fraction`, the share of units to hold out, unless one split would be empty. Then the unit with the smallest
    score is the only one for validation, or the unit with the largest the only one for training. A single unit is for
    training.
    """
    if units < 2 or smallest is None or largest is None:
        return 0.0
    if smallest >= fraction:
        return math.nextafter(smallest, 1.0)
    return min(fraction, largest)


def _with_unique_ids(frame: Any) -> Any:
    """Rename the second record with an id to `id~2`, the third to `id~3`, and so on, in reading order."""
    order = daft.Window().partition_by("id").order_by("file", "record")
    nth = daft.functions.row_number().over(order)
    while frame.count_distinct("id").to_pydict()["id"][0] < frame.count_rows():  # `a~2` may exist
        renamed = daft.functions.format("{}~{}", col("id"), col("nth"))
        frame = frame.with_column("nth", nth)
        frame = frame.with_column("id", when(col("nth") > 1, renamed).otherwise(col("id")))
        frame = frame.exclude("nth").collect()
    return frame


def _with_duplicates(frame: Any, config: CorpusConfig) -> Any:
    """Of the records with one URL, then of those with one digest, one stays; others get a reason and `copy_of`."""
    parent = col("parent").fill_null(col("id"))
    place = lit(len((policy := config.near_duplicates or KeepConfig()).source_order))
    for number, source in reversed([*enumerate(policy.source_order)]):
        place = when(col("source") == source, lit(number)).otherwise(place)
    none = lit(None).cast(daft.DataType.string())
    added = {"parent": parent, "group": parent, "place": place, "copy_of": none, "removed": none, "cuts": none}
    added["similarity"] = lit(None).cast(daft.DataType.float64())
    frame = frame.with_columns(added)
    if config.unique_urls:
        frame = _mark_others(frame, "same_url", "url", ["retrieved", "characters", "id"], [True, True, False])
    frame = _mark_others(frame, "duplicate", "digest", ["place", "id"], [False, False])
    return _with_kept_copies(frame.exclude("place", "digest", "url", "retrieved").collect())


def _mark_others(frame: Any, reason: str, key: str, order: list[str], descending: list[bool]) -> Any:
    """Of the records that share a `key`, mark all but the first in an order with `reason` and `copy_of`."""
    nth = daft.functions.row_number().over(daft.Window().partition_by(key).order_by(*order, desc=descending))
    ranked = frame.where(col("reason").is_null() & col(key).not_null()).select("id", key, *{*order} - {"id"})
    # A window takes about 4 KB for each value of its key, so it gets only those that are shared.
    shared = ranked.groupby(key).agg(col("id").count().alias("records")).where(col("records") > 1).select(key)
    ranked = ranked.join(shared, on=key)
    first = ranked.with_column("nth", nth).where(col("nth") == 1).select(key, col("id").alias("first"))
    frame = frame.join(first, on=key, how="left")
    is_copy = col("reason").is_null() & (col("first") != col("id")).fill_null(False)
    marks = {
        "copy_of": when(is_copy, col("first")).otherwise(col("copy_of")),
        "reason": when(is_copy, lit(reason)).otherwise(col("reason")),
    }
    return frame.with_columns(marks).exclude("first").collect()


def _with_kept_copies(frame: Any) -> Any:
    """Replace a `copy_of` that is itself a copy of a third document by that one."""
    third = frame.where(col("copy_of").not_null()).select(col("id").alias("copy_of"), col("copy_of").alias("third"))
    frame = frame.join(third, on="copy_of", how="left")
    return frame.with_column("copy_of", col("third").fill_null(col("copy_of"))).exclude("third").collect()


def _with_near_duplicates(frame: Any, found: NearDuplicates, action: Literal["drop", "report"]) -> Any:
    """Give the near-duplicates `copy_of` and `similarity`, and a reason (`drop`) or a common `group` (`report`)."""
    frame = frame.exclude("similarity").join(found.marks, on="id", how="left")
    frame = frame.with_column("copy_of", col("near").fill_null(col("copy_of")))
    if action == "report":
        frame = frame.exclude("group").join(found.groups, on="parent", how="left")
        return frame.with_column("group", col("group").fill_null(col("parent")))
    reason = when(col("near").not_null(), lit("near_duplicate")).otherwise(col("reason"))
    return _with_kept_copies(frame.with_column("reason", reason).collect())


def _with_contamination(frame: Any, found: Contamination) -> Any:
    """Give the documents with items of evaluation sets a reason, or the number of parts of what is left of them."""
    frame = frame.join(found.frame.select("file", "record", "gone", "left"), on=["file", "record"], how="left")
    reason = when(col("gone") == 1, lit("contaminated")).otherwise(col("reason"))
    return frame.with_columns({"reason": reason, "parts": col("left").fill_null(col("parts"))}).exclude("gone", "left")


def _without_items(frame: Any, found: Contamination) -> Any:
    """Replace the `text` of each document of which items of evaluation sets were cut out."""
    frame = frame.join(found.frame.select("file", "record", "cut"), on=["file", "record"], how="left")
    return frame.with_column("text", col("cut").fill_null(col("text"))).exclude("cut")


def _with_cuts(frame: Any, marks: Any) -> Any:
    """Give documents with repeated text a reason, or what is cut out of them."""
    changed = ("reason", "parts", "removed", "cuts")
    frame = frame.join(marks.select("id", *(col(name).alias(f"new_{name}") for name in changed)), on="id", how="left")
    new = {name: col(f"new_{name}").fill_null(col(name)) for name in changed}
    return frame.with_columns(new).exclude(*(f"new_{name}" for name in changed)).collect()


def final_rows(records: Any, verdicts: Verdicts, config: CorpusConfig, scratch: Path) -> Iterator[pa.RecordBatch]:
    """The rows of the finished corpus sorted by id, each with its `split`: train, validation or rejected."""
    texts = records.select("file", "record", "text", "licence", "metadata", "scores")
    whole = texts.join(verdicts.frame, on=["file", "record"])
    if verdicts.contamination is not None:
        found = verdicts.contamination.frame.select("file", "record", "told")
        whole = _without_items(whole, verdicts.contamination).join(found, on=["file", "record"], how="left")
        whole = whole.with_column("metadata", _with_told(col("metadata"), col("told")))
    whole = whole.with_column("metadata", _mark_copy(col("metadata"), col("copy_of"), col("similarity")))
    if config.repeated_text is not None:
        is_cut = col("reason").is_null() & col("cuts").not_null()
        text = when(is_cut, _without(col("text"), col("cuts"))).otherwise(col("text"))
        whole = whole.with_columns({"text": text, "metadata": _with_told(col("metadata"), col("removed"))})
    others = [col(name) for name in ("parent", "source", "licence", "metadata", "scores", "reason", "group")]
    below = _score(col("group" if verdicts.held_out == "documents" else "id")) < verdicts.threshold
    split = when(col("reason").not_null(), lit("rejected")).when(below, lit("validation")).otherwise(lit("train"))
    for frame in sorted_by_id(whole, verdicts.frame, scratch.parent):
        if config.split_characters is None:
            rows = frame.select(col("id"), col("text"), *others)
        else:
            rows = frame.select(_parts(col("id"), col("text"), col("reason"), config.split_characters), *others)
        yield from rows.with_column("split", split).to_arrow_iter()


@daft.func(return_dtype=daft.DataType.string())
def _with_told(metadata: str, told: str | None) -> str:
    return metadata if told is None else json_text({**json.loads(metadata), **json.loads(told)})


@daft.func(return_dtype=daft.DataType.string())
def _mark_copy(metadata: str, copy_of: str | None, similarity: float | None) -> str:
    if copy_of is None:
        return metadata
    added = {"duplicate_of": copy_of} | ({} if similarity is None else {"similarity": similarity})
    return json.dumps({**json.loads(metadata), **added}, ensure_ascii=False, sort_keys=True)


def part_ids(document_id: str, parts: int) -> list[str]:
    """The ids of a document's parts. An undivided document keeps its id, unless that ends like the id of a part."""
    if parts == 1 and not re.search(r"#\d+$", document_id):
        return [document_id]
    return [f"{document_id}#{number}" for number in range(parts)]


@daft.func(return_dtype=daft.DataType.string())
def _each_part_id(document_id: str, parts: int) -> Iterator[str]:
    yield from part_ids(document_id, parts)


@daft.func(return_dtype=_PART, unnest=True)
def _parts(document_id: str, text: str, reason: str | None, limit: int) -> Iterator[dict[str, str]]:
    """The parts of a kept document. A rejected document is not divided."""
    parts = split_text(text, limit) if reason is None else [text]
    ids = part_ids(document_id, len(parts)) if reason is None else [document_id]
    for name, part in zip(ids, parts, strict=True):
        yield {"id": name, "text": part}
