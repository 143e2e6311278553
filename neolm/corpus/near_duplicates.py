"""Near-duplicates: documents with nearly the same words (Broder, 1997; MinHash with LSH as in FineWeb and GPT-3).

1. Sign every document, and collect the LSH buckets with two or more documents (Daft).
2. Verify the pairs of each bucket, and connect the similar ones: only verified pairs join a cluster.
3. Keep one document of each cluster by a rule that does not depend on the order of files or rows.

The documents that share a bucket are compared in the memory of one process, which takes about 0.7 times their text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neolm.core.errors import SettingError, shortened
from neolm.corpus.config import KeepConfig, NearDuplicatesConfig
from neolm.corpus.engine import daft
from neolm.corpus.reasons import REASONS
from neolm.corpus.shingles import bucket_hashes, shingle_sets, signatures
from neolm.kernels.shingles import connect, similarities

Array = npt.NDArray[Any]

col: Any = daft.col
lit, when = daft.lit, daft.functions.when
LARGEST_SHOWN, SOURCES_SHOWN = 10, 20
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


def find_near_duplicates(records: Any, kept: Any, config: NearDuplicatesConfig) -> NearDuplicates:
    """Compare all `kept` documents, whose texts are in `records`.

    Args:
        records: Frame of all rows: file, record, text.
        kept: Frame of the documents: file, record, id, parent, source, characters.
        config: How to compare them.

    Raises:
        SettingError: too large a share of a source would be dropped.
    """
    row = (col("file") * 2**32 + col("record")).alias("row")
    texts = records.select("file", "record", "text").join(kept, on=["file", "record"]).with_column("row", row)
    signed = texts.select("row", _buckets(col("text"), config).alias("bucket")).explode("bucket")
    shared = signed.where(col("bucket").not_null()).groupby("bucket").agg(col("row").list_agg())
    buckets = shared.where(col("row").list_count() > 1).select("row").to_arrow().column("row").combine_chunks()
    rows, sizes = buckets.flatten().to_numpy(), buckets.value_lengths().to_numpy().astype(np.int64)
    candidates = daft.from_arrow(pa.table({"row": np.unique(rows)}))
    compared = texts.join(candidates, on="row").select(
        *("row", "id", "parent", "source", "characters"),
        _shingles(col("text"), config.ngram).alias("shingles"),
    )
    documents = compared.to_arrow().sort_by("id").combine_chunks()
    documents = _clusters(documents, rows, sizes, config)
    if config.action == "drop":
        near = documents.filter(documents.column("near").is_valid()).select(["source"])
        near = near.append_column("amount", pa.array(np.ones(len(near), np.int64)))
        advice = "Look at them with corpus.near_duplicates.action=report, " + REASONS["near_duplicate"].remedy
        problem = ("near_duplicates", "documents", "are near-duplicates", advice)
        check_shares(kept.with_column("amount", lit(1)), near, config.max_dropped_share, *problem)
    marks, groups = daft.from_arrow(documents.select(["id", "near", "similarity"])), daft.from_arrow(_groups(documents))
    return NearDuplicates(marks, groups, _counts(documents))


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


def _clusters(documents: pa.Table, rows: Array, sizes: Array, config: NearDuplicatesConfig) -> pa.Table:
    """The documents of `documents` (sorted by id) that are in clusters, with `root`, `near` and `similarity`.

    `rows` has the rows of one bucket after another, and `sizes` the number of each.
    """
    own = documents.column("row").to_numpy()
    order = np.argsort(own)
    members = order[np.searchsorted(own, rows, sorter=order)]
    members = members[np.lexsort((members, np.repeat(np.arange(len(sizes)), sizes)))]
    shingles = documents.column("shingles").combine_chunks()
    values, ends = shingles.flatten().to_numpy(), np.cumsum(shingles.value_lengths().to_numpy(), dtype=np.int64)
    roots = connect(members, np.cumsum(sizes), values, ends, config.threshold)
    best = _best(documents, roots, config)
    similarity = similarities(np.arange(len(roots)), best, values, ends)
    names = documents.column("id")
    added = {
        "root": pa.array(roots),
        "near": pc.if_else(pa.array(best == np.arange(len(best))), None, names.take(pa.array(best))),
        "similarity": pa.array(similarity.round(4)),
    }
    for name, column in added.items():
        documents = documents.append_column(name, column)
    return documents.filter(pa.array(np.bincount(roots, minlength=len(roots))[roots] > 1))


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
    groups = connect(members, ends, np.zeros(0, np.uint32), np.zeros(len(names), np.int64), 0.0)
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
