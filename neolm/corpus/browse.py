"""Look into a finished corpus: search it, sample it, and ask why a document was rejected or what is near it."""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from neolm.core.errors import InputError
from neolm.core.manifest import require
from neolm.corpus.reasons import REASONS
from neolm.corpus.shingles import shingle_sets

NGRAM = 5
EXCERPT = 120  # characters on each side of what was found
Row = dict[str, Any]


def rows(corpus: Path, kept: bool = True, rejected: bool = True) -> Iterator[Row]:
    """The documents of a corpus with their `split`: train, validation or rejected. A few are in memory at a time.

    Raises:
        NeoLMError: the corpus is not finished.
    """
    require(corpus, "corpus", "corpus build")
    folders = ["documents"] * kept + ["rejected"] * rejected
    for path in (path for folder in folders for path in sorted((corpus / folder).glob("*.parquet"))):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    yield row | {"split": path.name.partition("-")[0]}


def sample(corpus: Path, size: int) -> list[Row]:
    """Random kept documents: those with the smallest hashes of their ids."""

    def place(row: Row) -> bytes:
        return hashlib.blake2b(row["id"].encode("utf-8"), digest_size=8).digest()

    return heapq.nsmallest(size, rows(corpus, rejected=False), key=place)


def search(corpus: Path, pattern: str, size: int) -> list[Row]:
    """Documents whose text matches a regular expression, whatever the case, with an `excerpt` around the first match.

    Raises:
        InputError: the expression is not valid.
    """
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"--search: {pattern!r} is not a regular expression: {error}") from None
    found = []
    for row in rows(corpus):
        if (match := wanted.search(row["text"])) is not None:
            start, end = max(0, match.start() - EXCERPT), match.end() + EXCERPT
            found.append(row | {"excerpt": row["text"][start:end]})
            if len(found) == size:
                break
    return found


def rejected(corpus: Path, reason: str, size: int) -> list[Row]:
    """Documents that were rejected for a reason.

    Raises:
        InputError: none was.
    """
    found: list[Row] = []
    others = set()
    for row in rows(corpus, kept=False):
        others.add(row["reason"])
        if row["reason"] == reason and len(found) < size:
            found.append(row)
    if not found:
        raise InputError(
            f"--reason: no document was rejected for {reason!r}; the reasons are {', '.join(sorted(others))}"
        )
    return found


def document(corpus: Path, name: str) -> list[Row]:
    """The document with an id, and its parts if it was divided.

    Raises:
        InputError: there is none.
    """
    found = [row for row in rows(corpus) if name in (row["id"], row["parent"])]
    if not found:
        raise InputError(f"{corpus}: no document has the id {name!r}")
    return found


def near(corpus: Path, name: str, size: int) -> list[Row]:
    """The documents that share most sequences of five words with a document, with their Jaccard `similarity`.

    Raises:
        InputError: there is no such document, or it has fewer than five words.
    """
    (own,) = shingle_sets([document(corpus, name)[0]["text"]], NGRAM)
    if not len(own):
        raise InputError(f"--near: {name!r} has fewer than {NGRAM} words")

    def scored() -> Iterator[Row]:
        for row in rows(corpus):
            if name not in (row["id"], row["parent"]):
                (other,) = shingle_sets([row["text"]], NGRAM)
                shared = len(np.intersect1d(own, other, assume_unique=True))
                if shared:
                    yield row | {"similarity": shared / (len(own) + len(other) - shared)}

    return heapq.nsmallest(size, scored(), key=lambda row: (-row["similarity"], row["id"]))


def described(row: Row, whole: bool = False) -> str:
    """A document for a terminal: where it is, why it was rejected, what was measured, and its text."""
    told = json.loads(row["metadata"])
    why = told.pop("why", None) or told.pop("error", None)
    lines = [f"{row['id']}  ({row['split']}; {row['source']}; {row['licence']})"]
    if "similarity" in row:
        lines.append(f"  similarity  {row['similarity']:.2f}")
    if row.get("reason"):
        words = REASONS[row["reason"]].words if row["reason"] in REASONS else row["reason"]
        lines.append(f"  rejected    {words}" + (f": {why}" if why else ""))
        if whole and row["reason"] in REASONS:
            lines.append(f"  remedy      {REASONS[row['reason']].remedy}")
    lines += [f"  {key:11} {value}" for key, value in told.items()] if whole else []
    scores = json.loads(row.get("scores") or "{}") if whole else {}
    lines += [f"  {key}  {value:g}" for key, value in scores.items()]
    text = row["text"] if whole else " ".join(row.get("excerpt", row["text"][: 3 * EXCERPT]).split())
    return "\n".join([*lines, text if whole else f"  {text}"])
