"""Near-duplicates: documents with nearly the same words (Broder, 1997; MinHash with LSH as in FineWeb and GPT-3).

1. Sign every document (Daft), and find the LSH buckets with two or more documents.
2. Verify the pairs of each bucket, and connect the similar ones: only verified pairs join a cluster.
3. Keep one document of each cluster by a rule that does not depend on the order of files or rows.

The buckets of all documents and the shingles of those that share one are files, which are mapped into memory: 8 bytes
for each bucket of a document, and about 0.7 times the text that is compared. All cores compare.
"""

from __future__ import annotations

import os
import queue
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neolm.core.errors import SettingError, shortened
from neolm.core.progress import task
from neolm.corpus.config import KeepConfig, NearDuplicatesConfig
from neolm.corpus.engine import daft
from neolm.corpus.reasons import REASONS
from neolm.corpus.shingles import bucket_hashes, shingle_sets, signatures
from neolm.kernels.shingles import connect, similarities

Array = npt.NDArray[Any]

col: Any = daft.col
lit, when = daft.lit, daft.functions.when
LARGEST_SHOWN, SOURCES_SHOWN = 10, 20
SLICE = 2**16  # documents in the buckets that a thread compares at a time
# Sources of fewer documents are judged together by `max_dropped_share`: each .txt file is a source.
SMALL_SOURCE = 100
_SMALL_SOURCES = f"the sources of fewer than {SMALL_SOURCE} documents"


@dataclass(frozen=True)
class NearDuplicates:
    """The near-duplicates of a corpus, and what is to be said about them."""

    marks: Any
    """Frame of the documents in clusters: `id`, `near` (the id of the best document of the cluster, null for that one),
    and their `similarity`."""
    groups: Any
    """Frame: `parent`, and `group`, the smallest parent of those that clusters connect to it."""
    counts: dict[str, Any]


def find_near_duplicates(records: Any, kept: Any, config: NearDuplicatesConfig, scratch: Path) -> NearDuplicates:
    """Compare all `kept` documents, whose texts are in `records`.

    Args:
        records: Frame of all rows: file, record, text.
        kept: Frame of the documents: file, record, id, parent, source, characters.
        config: How to compare them.
        scratch: Directory for temporary files.

    Raises:
        SettingError: too large a share of a source would be dropped.
    """
    row = (col("file") * 2**32 + col("record")).alias("row")
    texts = records.select("file", "record", "text").join(kept, on=["file", "record"]).with_column("row", row)
    with tempfile.TemporaryDirectory(dir=scratch.parent) as place:  # not in `scratch`, which holds what was read
        rows, sizes = _shared_buckets(texts, kept.count_rows(), config, Path(place))
        documents, shingles, starts, ends = _compared(texts, rows, config.ngram, Path(place) / "shingles")
        documents = _clusters(documents, rows, sizes, (shingles, starts, ends), config)
    if config.action == "drop":
        near = documents.filter(documents.column("near").is_valid()).select(["source"])
        near = near.append_column("amount", pa.array(np.ones(len(near), np.int64)))
        advice = "Look at them with corpus.near_duplicates.action=report, " + REASONS["near_duplicate"].remedy
        problem = ("near_duplicates", "documents", "are near-duplicates", advice)
        check_shares(kept.with_column("amount", lit(1)), near, config.max_dropped_share, *problem)
    marks, groups = daft.from_arrow(documents.select(["id", "near", "similarity"])), daft.from_arrow(_groups(documents))
    return NearDuplicates(marks, groups, _counts(documents))


def _shared_buckets(texts: Any, number: int, config: NearDuplicatesConfig, place: Path) -> tuple[Array, Array]:
    """The rows of all buckets with two or more documents, one bucket after another, and the number of each."""
    signed = texts.select("row", _buckets(col("text"), config).alias("bucket"))
    with (
        task("corpus: near-duplicates, signing", number, "documents") as bar,
        (place / "rows").open("wb") as rows,
        (place / "buckets").open("wb") as buckets,
    ):
        for batch in signed.to_arrow_iter():
            has_shingles = batch.filter(pc.greater(pc.list_value_length(batch.column("bucket")), 0))
            has_shingles.column("row").to_numpy().tofile(rows)
            has_shingles.column("bucket").flatten().to_numpy().tofile(buckets)
            bar.advance(batch.num_rows)
    own, hashes = _mapped(place / "rows", np.int64), _mapped(place / "buckets", np.uint64)
    found, sizes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for bucket in range(config.buckets):
        values = hashes[bucket :: config.buckets]
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=~values[order[:1]]))
        lengths = np.diff(starts, append=len(order))
        found.append(own[order[np.repeat(lengths > 1, lengths)]])
        sizes.append(lengths[lengths > 1])
    return np.concatenate(found), np.concatenate(sizes)


def _compared(texts: Any, rows: Array, ngram: int, place: Path) -> tuple[pa.Table, Array, Array, Array]:
    """The documents that share a bucket, sorted by id; and the file of their shingles, with the place of each."""
    candidates = daft.from_arrow(pa.table({"row": np.unique(rows)}))
    compared = texts.join(candidates, on="row").select(
        *("row", "id", "parent", "source", "characters"),
        _shingles(col("text"), ngram).alias("shingles"),
    )
    tables, lengths = [], [np.zeros(0, np.int64)]
    with place.open("wb") as file:
        for batch in compared.to_arrow_iter():
            batch.column("shingles").flatten().to_numpy().tofile(file)
            lengths.append(pc.list_value_length(batch.column("shingles")).to_numpy().astype(np.int64))
            tables.append(pa.Table.from_batches([batch.drop_columns("shingles")]))
    if not tables:
        tables = [compared.select("row", "id", "parent", "source", "characters").to_arrow()]
    ends = np.cumsum(np.concatenate(lengths))
    documents = pa.concat_tables(tables).combine_chunks()
    order = pc.sort_indices(documents, [("id", "ascending")])
    starts, ends = (ends - np.concatenate(lengths))[order], ends[order]
    return documents.take(order), _mapped(place, np.uint32), starts, ends


def _mapped(path: Path, dtype: Any) -> Array:
    """The numbers in a file; read when they are used, and given up when memory is needed."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


def _counts(documents: pa.Table) -> dict[str, Any]:
    """The numbers for the manifest: clusters, the largest ones, and their documents without the best of each."""
    sizes = sorted(Counter(documents.column("root").to_pylist()).values(), reverse=True)
    others = Counter(documents.filter(documents.column("near").is_valid()).column("source").to_pylist())
    sources = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:SOURCES_SHOWN]
    return {
        "clusters": len(sizes),
        "largest": sizes[:LARGEST_SHOWN],
        "documents": others.total(),
        "sources": dict(sources),
    }


def _clusters(
    documents: pa.Table, rows: Array, sizes: Array, shingles: tuple[Array, Array, Array], config: NearDuplicatesConfig
) -> pa.Table:
    """The documents of `documents` (sorted by id) that are in clusters, with `root`, `near` and `similarity`.

    `rows` has the rows of one bucket after another, and `sizes` the number of each. `shingles`: as for `connect`.
    """
    own = documents.column("row").to_numpy()
    order = np.argsort(own)
    members = order[np.searchsorted(own, rows, sorter=order)]
    members = members[np.lexsort((members, np.repeat(np.arange(len(sizes)), sizes)))]
    roots = _connected(members, sizes, shingles, len(own), config.threshold)
    best = _best(documents, roots, config)
    similarity = similarities(np.arange(len(roots)), best, *shingles)
    names = documents.column("id")
    added = {
        "root": pa.array(roots),
        "near": pc.if_else(pa.array(best == np.arange(len(best))), None, names.take(pa.array(best))),
        "similarity": pa.array(similarity.round(4)),
    }
    for name, column in added.items():
        documents = documents.append_column(name, column)
    return documents.filter(pa.array(np.bincount(roots, minlength=len(roots))[roots] > 1))


def _connected(
    members: Array, sizes: Array, shingles: tuple[Array, Array, Array], number: int, threshold: float
) -> Array:
    """The roots of `number` documents. Threads take slices of the buckets, and their clusters are joined at the end.

    Buckets with the same first document are in one slice as far as possible, so that few pairs are compared twice.
    """
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(members[starts], kind="stable")
    sizes = sizes[order]
    members = members[np.repeat(starts[order] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(members))]
    ends = np.cumsum(sizes)
    cuts = np.unique(np.searchsorted(ends, np.arange(SLICE, len(members) + SLICE, SLICE)) + 1).clip(max=len(ends))
    threads = len(os.sched_getaffinity(0))
    roots = [np.arange(number) for _ in range(threads)]
    free = queue.SimpleQueue[Array]()
    for one in roots:
        free.put(one)

    def compare(first: int, last: int) -> int:
        start, end = int(ends[first - 1]) if first else 0, int(ends[last - 1])
        mine = free.get()
        connect(mine, members[start:end], ends[first:last] - start, *shingles, threshold)
        free.put(mine)
        return end - start

    with (
        task("corpus: near-duplicates, comparing", len(members), "documents") as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        for done in pool.map(compare, [0, *cuts[:-1].tolist()], cuts.tolist()):
            bar.advance(done)
    nothing = np.zeros(number, np.int64)
    for other in roots[1:]:
        pairs = np.stack([other, np.arange(number)], axis=1)[other < np.arange(number)]
        joined = np.arange(2, pairs.size + 2, 2)
        connect(roots[0], pairs.ravel(), joined, np.zeros(0, np.uint32), nothing, nothing, 0.0)
    return roots[0]


def _best(documents: pa.Table, roots: Array, config: NearDuplicatesConfig) -> Array:
    """The document to keep of the cluster of each document. Among equals it is the one with the smallest id."""
    order = np.lexsort((np.arange(len(roots)), *keep_keys(documents, config), roots))
    first = np.searchsorted(roots[order], roots)
    return np.asarray(order[first])


def keep_keys(documents: pa.Table, config: KeepConfig) -> tuple[Array, ...]:
    """Keys for np.lexsort that put the documents to keep first, by columns `characters` and `source`."""
    longest = -documents.column("characters").to_numpy().astype(np.int64)
    place = pc.index_in(documents.column("source"), pa.array(config.source_order, documents.column("source").type))
    place = place.fill_null(len(config.source_order)).to_numpy()
    return {"longest": (longest,), "first": (), "source": (longest, place)}[config.keep]


def _groups(documents: pa.Table) -> pa.Table:
    """Each `parent` of documents in clusters, with its `group`."""
    parents, roots = documents.column("parent"), documents.column("root").to_numpy()
    names = pc.unique(parents)
    names = names.take(pc.sort_indices(names))
    number = pc.index_in(parents, names).to_numpy().astype(np.int64)
    members, ends = number[np.argsort(roots)], np.cumsum(np.unique(roots, return_counts=True)[1])
    nothing = np.zeros(len(names), np.int64)
    groups = connect(np.arange(len(names)), members, ends, np.zeros(0, np.uint32), nothing, nothing, 0.0)
    return pa.table({"parent": names, "group": names.take(pa.array(groups))})


def check_shares(
    kept: Any, dropped: pa.Table, limit: float, section: str, unit: str, problem: str, advice: str
) -> None:
    """Raise a SettingError if more than the share `limit` of a source would be dropped.

    `kept` is a frame of documents, `dropped` a table: the `source` of each, and its `amount` in `unit`.
    """
    lost = daft.from_arrow(dropped).groupby("source").agg(col("amount").sum().alias("dropped"))
    totals = kept.groupby("source").agg(col("amount").count().alias("documents"), col("amount").sum())
    name = when(col("documents") < SMALL_SOURCE, lit("")).otherwise(col("source"))
    totals = totals.join(lost, on="source", how="left").select(name.alias("source"), "amount", "dropped")
    sums = totals.groupby("source").agg(col("amount").sum(), col("dropped").fill_null(0).sum())
    over = sums.where(col("dropped") > col("amount") * limit).sort(["dropped", "source"], desc=[True, False])
    for row in over.limit(1).to_pylist():
        source = f"the source {shortened(row['source'])}" if row["source"] else _SMALL_SOURCES
        share = f"{row['dropped']:,} of {row['amount']:,} {unit} ({row['dropped'] / row['amount']:.1%})"
        raise SettingError(
            f"{section}.max_dropped_share",
            f"{share} of {source} {problem}, and at most {limit:.1%} may be dropped. {advice}, or consent with "
            f"corpus.{section}.max_dropped_share=1",
        )


@daft.func.batch(return_dtype=daft.DataType.list(daft.DataType.uint64()))
def _buckets(text: Any, config: NearDuplicatesConfig) -> pa.Array:
    """The LSH buckets of each text; none for a text without shingles."""
    signature, is_long = signatures(_texts(text), config.ngram, config.buckets * config.rows)
    hashes = bucket_hashes(signature[is_long], config.buckets, config.rows)
    return list_array(hashes.ravel(), is_long * config.buckets)


@daft.func.batch(return_dtype=daft.DataType.list(daft.DataType.uint32()))
def _shingles(text: Any, ngram: int) -> pa.Array:
    sets = shingle_sets(_texts(text), ngram)
    return list_array(np.concatenate([np.zeros(0, np.uint32), *sets]), np.array([len(one) for one in sets], np.int64))


def _texts(series: Any) -> Iterator[str]:
    return (value.as_py() for value in series.to_arrow())


def list_array(values: Array, lengths: Array) -> pa.Array:
    """Lists whose values are given one after another."""
    return pa.LargeListArray.from_arrays(np.concatenate(([0], np.cumsum(lengths))), values)
