"""A corpus without some of its documents: what a person or a rights holder asks to have taken back."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from neolm.core.artifact import Stage
from neolm.core.errors import InputError
from neolm.core.files import write_text
from neolm.core.manifest import Manifest, input_from, require
from neolm.corpus.browse import Row, rows
from neolm.corpus.config import DROPPED
from neolm.corpus.documents import CONTAMINATION, REJECTED_SCHEMA
from neolm.corpus.writer import write_splits
from neolm.formats.json_values import json_text

TAKEN_BACK = "taken_back"
BATCH = 64


@dataclass(frozen=True)
class Criteria:
    """Which documents are dropped: those that any of these name."""

    sources: Sequence[str] = ()
    urls: Sequence[str] = ()
    ids: Sequence[str] = ()
    matching: str | None = None
    """A regular expression for the text, whatever the case."""
    near_copies: bool = False
    """The near copies of these documents too, where `near_duplicates.action=report` kept them."""

    def names(self, row: Row) -> bool:
        """Whether a document, or a part of one, is named."""
        told = json.loads(row["metadata"])
        return (
            row["source"] in self.sources
            or told.get("url") in self.urls
            or not {row["id"], row["parent"]}.isdisjoint(self.ids)
            or (self.matching is not None and re.search(self.matching, row["text"], re.IGNORECASE) is not None)
        )


def drop(corpus: Path, output: Path, criteria: Criteria) -> tuple[Manifest, set[str]]:
    """Write `output/corpus` without the documents that are named; the ids of the documents and parts that were dropped.

    A document is dropped whole, with all its parts. Of the rejected records, those that are named, and the copies of
    dropped documents, lose their text too. Splits stay as they are, and so do the counts of masked data and of wrong
    encodings.

    Raises:
        InputError: no document is named, all are, or the expression is not valid.
    """
    require(corpus, "corpus", "corpus build")
    if not (criteria.sources or criteria.urls or criteria.ids or criteria.matching):
        raise InputError("corpus drop: say what is to be dropped: --source, --url, --id or --matching")
    try:
        re.compile(criteria.matching or "")
    except re.error as error:
        raise InputError(f"--matching: {criteria.matching!r} is not a regular expression: {error}") from None
    if (output / "corpus").exists():
        raise InputError(f"{output / 'corpus'} exists; give another directory for the new corpus")
    parents = {row["parent"] for row in rows(corpus, rejected=False) if criteria.names(row)}
    while (near := _near_copies(corpus, parents)) and criteria.near_copies:
        parents |= near
    kept = Counter(row["parent"] in parents for row in rows(corpus, rejected=False))
    if not kept[True]:
        raise InputError(f"{corpus}: no document is named by what is to be dropped")
    if not kept[False]:
        raise InputError(f"{corpus}: every document would be dropped")
    dropped = {row["id"] for row in rows(corpus, rejected=False) if row["parent"] in parents}
    settings = {DROPPED: {"documents": len(parents), **vars(criteria)}}
    stage = Stage("corpus", "corpus", output / "corpus", {"corpus": input_from(corpus, output)}, settings)
    counts = {"near_copies": len(near)}
    return stage.build(lambda place: _write(corpus, place, criteria, dropped, parents) | counts), dropped


def _near_copies(corpus: Path, parents: Set[str]) -> set[str]:
    """The other parents of kept documents in a cluster of near-duplicates with a document of `parents`."""
    clusters: dict[str, set[str]] = {}
    for row in rows(corpus, rejected=False):
        near = json.loads(row["metadata"]).get("duplicate_of")
        for name in {row["id"], row["parent"]} if near is None else (near,):
            clusters.setdefault(name, set()).add(row["parent"])
    return {one for cluster in clusters.values() if not cluster.isdisjoint(parents) for one in cluster - parents}


def _write(corpus: Path, place: Path, criteria: Criteria, dropped: set[str], parents: set[str]) -> dict[str, Any]:
    documents: dict[str, set[str]] = {"train": set(), "validation": set(), "rejected": set()}
    sources: dict[str, set[str]] = {name: set() for name in require(corpus, "corpus", "corpus build").counts["sources"]}
    gone, copied = Counter[str](), dropped | parents  # a copy of a divided document names that, not its parts
    forgotten = set(copied)

    def decided() -> Iterator[Row]:
        for row in rows(corpus):
            if row["split"] != "rejected" and row["parent"] in parents:
                gone["bytes"] += len(row["text"].encode("utf-8"))
                gone["documents"] += row["parent"] not in documents["rejected"]
                documents["rejected"].add(row["parent"])
                yield _without_text(row) | {"split": "rejected", "reason": TAKEN_BACK}
            elif row["split"] == "rejected":
                named = json.loads(row["metadata"]).get("duplicate_of") in copied or criteria.names(row)
                forgotten.update({row["id"]} if named else ())
                yield _without_text(row) if named else row
            else:
                documents[row["split"]].add(row["parent"])
                sources.get(row["source"], set()).add(row["parent"])
                yield row

    schema = REJECTED_SCHEMA.append(pa.field("split", pa.string()))
    written = write_splits(place, _batches(decided(), schema), lambda size: None)
    if (corpus / CONTAMINATION).is_file():
        lines = map(json.loads, filter(None, (corpus / CONTAMINATION).read_text("utf-8").split("\n")))
        write_text(place / CONTAMINATION, "".join(f"{json_text(_forget(line, forgotten))}\n" for line in lines))
    counts = dict(require(corpus, "corpus", "corpus build").counts)
    documents["kept"] = documents["train"] | documents["validation"]
    for split in ("kept", "train", "validation"):
        counts[split] = written[split] | {"documents": len(documents[split])}
    counts["sources"] = {name: len(names) for name, names in sources.items() if names}
    counts["rejected"] = counts["rejected"] | {TAKEN_BACK: dict(gone)}
    return counts


def _forget(line: dict[str, Any], names: Set[str]) -> dict[str, Any]:
    """A line of contamination.jsonl without the text of some documents."""
    return line | {"matches": [one for one in line.get("matches", ()) if one["document"] not in names]}


def _without_text(row: Row) -> Row:
    return row | {"text": "", "metadata": "{}", "scores": None}


def _batches(found: Iterator[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    batch: list[Row] = []
    for row in found:
        batch.append({name: row.get(name) for name in schema.names})
        if len(batch) == BATCH:
            yield pa.RecordBatch.from_pylist(batch, schema)
            batch = []
    if batch:
        yield pa.RecordBatch.from_pylist(batch, schema)
