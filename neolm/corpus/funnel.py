"""Finished rows to the files of their side, counted as they pass."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from neolm.corpus.documents import DOCUMENT_SCHEMA, REJECTED_SCHEMA
from neolm.corpus.writer import TableWriter

SOURCES_SHOWN = 20


class Funnel:
    """The three outputs of a corpus: train, validation, rejected."""

    def __init__(self, directory: Path) -> None:
        self._writers = {
            "train": TableWriter(directory / "documents", "train", DOCUMENT_SCHEMA),
            "validation": TableWriter(directory / "documents", "validation", DOCUMENT_SCHEMA),
            "rejected": TableWriter(directory / "rejected", "rejected", REJECTED_SCHEMA),
        }
        self._rejected: dict[str, Counter[str]] = {}
        self._sources: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> int:
        """Write the rows of `batch`, each to its `side`; returns the bytes of the kept texts among them."""
        table = pa.Table.from_batches([batch])
        before = self._kept_bytes()
        for side, writer in self._writers.items():
            rows = table.filter(pc.equal(table.column("side"), side))
            writer.write(rows)
            if side == "rejected":
                reasons, sizes = (rows.column(name).to_pylist() for name in ("reason", "raw_bytes"))
                for reason, size in zip(reasons, sizes, strict=True):
                    self._rejected.setdefault(reason, Counter()).update(documents=1, bytes=size)
            else:
                self._sources.update(rows.column("source").to_pylist())
        return self._kept_bytes() - before

    def close(self) -> None:
        """Complete the files."""
        for writer in self._writers.values():
            writer.close()

    def counts(self, kept: int) -> dict[str, Any]:
        """The counts for the manifest. `kept` is in whole documents, the two sides and the sources in parts.

        Bytes are of UTF-8 text: as read where a document is rejected, after cleaning where it is kept.
        """
        sides = {
            side: {"documents": self._writers[side].rows, "bytes": self._writers[side].text_bytes}
            for side in ("train", "validation")
        }
        sources = sorted(self._sources.items(), key=lambda item: (-item[1], item[0]))
        return {
            "rejected": {reason: dict(self._rejected[reason]) for reason in sorted(self._rejected)},
            "kept": {"documents": kept, "bytes": self._kept_bytes()},
            **sides,
            "sources": dict(sources[:SOURCES_SHOWN]),
        }

    def _kept_bytes(self) -> int:
        return self._writers["train"].text_bytes + self._writers["validation"].text_bytes
