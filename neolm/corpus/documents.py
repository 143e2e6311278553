"""The documents of a finished corpus: the record type, its columns on disk, and the function that reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from neolm.core.manifest import intact_file, require

Split = Literal["train", "validation"]
CONTAMINATION = "contamination.jsonl"
"""File of a corpus with a line for each item of an evaluation set that was found or cannot be judged."""

DOCUMENT_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "parent", "text", "source", "licence", "metadata")])
KEPT_SCHEMA = DOCUMENT_SCHEMA.append(pa.field("scores", pa.string()))
"""`scores`: what the filters measured, a JSON object; null without filters."""
REJECTED_SCHEMA = KEPT_SCHEMA.append(pa.field("reason", pa.string()))


@dataclass(frozen=True)
class Document:
    r"""A document or a part of one: `text` is NFC with `\n` line ends, `metadata` is a JSON object as text."""

    id: str
    parent: str
    """The id of the source document. It equals `id` for an undivided document."""
    text: str
    source: str
    licence: str
    metadata: str


def read_documents(corpus_directory: Path, split: Split) -> Iterator[Document]:
    """The documents of one split, with a few in memory at a time.

    Raises:
        NeoLMError: the corpus is not finished.
        InputError: a file is damaged.
    """
    require(corpus_directory, "corpus", "corpus build")
    for path in sorted((corpus_directory / "documents").glob(f"{split}-*.parquet")):
        with pq.ParquetFile(intact_file(corpus_directory, f"documents/{path.name}")) as file:
            for batch in file.iter_batches(batch_size=64, columns=DOCUMENT_SCHEMA.names):
                for row in batch.to_pylist():
                    yield Document(**{"parent": row["id"], **row})  # older corpora have no parents


def training_sources(corpus_directory: Path) -> set[str]:
    """The sources of the training documents of a finished corpus."""
    files = sorted((corpus_directory / "documents").glob("train-*.parquet"))
    return {name for file in files for name in pq.read_table(file, columns=["source"])["source"].unique().to_pylist()}
