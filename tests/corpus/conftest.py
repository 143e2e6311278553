"""Fixtures of the corpus tests: write raw files, build a corpus, read the result."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard

from neolm.core.manifest import Manifest
from neolm.corpus.build import build_corpus
from neolm.corpus.config import CorpusConfig
from neolm.corpus.documents import Document, read_documents


@dataclass(frozen=True)
class Built:
    """A finished corpus: directory, manifest, documents by id and rejected rows by id."""

    directory: Path
    manifest: Manifest

    @property
    def counts(self) -> dict[str, Any]:
        return self.manifest.counts

    def split(self, split: Any) -> list[Document]:
        return list(read_documents(self.directory, split))

    @property
    def kept(self) -> dict[str, Document]:
        return {document.id: document for split in ("train", "validation") for document in self.split(split)}

    @property
    def rejected(self) -> dict[str, dict[str, str]]:
        rows = [row for p in sorted(self.directory.glob("rejected/*")) for row in pq.read_table(p).to_pylist()]
        return {row["id"]: row for row in rows}

    @property
    def reasons(self) -> dict[str, str]:
        return {name: row["reason"] for name, row in self.rejected.items()}


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Built]:
    """`build(path, **settings)`: the corpus of `path`, in `output` below the test's directory."""

    def run(path: Path | tuple[str, ...] | None = None, output: Path = tmp_path / "output", **settings: Any) -> Built:
        settings = {
            "source": "files",
            "path": str(path) if isinstance(path, Path) else path,
            "min_characters": 1,
            **settings,
        }
        manifest = build_corpus(output, CorpusConfig(**settings))
        return Built(output / "corpus", manifest)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(name, content)`: a raw file, compressed if its name says so; lists become JSON lines."""

    def run(name: str, content: str | bytes | list[Any]) -> Path:
        if isinstance(content, list):
            content = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in content)
        data = content.encode("utf-8") if isinstance(content, str) else content
        if name.endswith(".gz"):
            data = gzip.compress(data)
        if name.endswith(".zst"):
            data = zstandard.compress(data)
        if name.endswith(".xz"):
            data = lzma.compress(data)
        if name.endswith(".bz2"):
            data = bz2.compress(data)
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return run
