"""Token shards: flat files of token ids, memory-mapped, with an index that leads each position back to its document.

A split is the stream  <eot> document <eot> document ... <eot>  cut into files `train-00000.bin` of little-endian
uint16 (uint32 beyond 65,536 tokens). Beside each lies `train-00000.index.parquet`: a row a document with its id, the
position of its first token (the <eot> before it) in the file, its number of tokens (that <eot> included) and the
bytes of its text. The last <eot> belongs to no document.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neolm.core.errors import InputError
from neolm.core.progress import task
from neolm.tokenizer.tokenizer import Tokenizer

SHARD_TOKENS = 2**27  # 256 MiB in uint16
ENCODE_CHARACTERS = 4_000_000  # text encoded at a time, on all cores

_INDEX = pa.schema([("id", pa.string()), ("start", pa.int64()), ("tokens", pa.int64()), ("bytes", pa.int64())])


class TextDocument(Protocol):
    """What a shard needs to know of a document."""

    @property
    def id(self) -> str:
        """Its name, unique in the corpus."""

    @property
    def text(self) -> str:
        """Its text."""


def shard_dtype(vocab_size: int) -> np.dtype[Any]:
    """Little-endian uint16 where every id fits, else uint32."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def write_shards(
    documents: Iterable[TextDocument],
    tokenizer: Tokenizer,
    directory: Path,
    split: str,
    total_documents: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, int]:
    """Encode `documents` into the shards of `split`; returns counts of documents, tokens and bytes."""
    dtype = shard_dtype(tokenizer.size)
    counts = {"documents": 0, "tokens": 0, "bytes": 0, "shards": 0}
    with task(f"Encoding {split}", total_documents, "documents") as progress:
        pending = _encoded(documents, tokenizer)
        following = next(pending, None)
        while following is not None or counts["shards"] == 0:
            name = f"{split}-{counts['shards']:05d}"
            rows: list[tuple[str, int, int, int]] = []
            position = 0
            with (directory / f"{name}.bin").open("wb") as file:
                while following is not None and (position == 0 or position + len(following[1]) < shard_tokens):
                    identity, ids, size = following
                    tokens = np.array([tokenizer.eos_token_id, *ids], dtype=dtype)
                    file.write(tokens.tobytes())
                    rows.append((identity, position, len(tokens), size))
                    position += len(tokens)
                    counts["bytes"] += size
                    progress.advance()
                    following = next(pending, None)
                if following is None:  # the end of the stream
                    file.write(np.array([tokenizer.eos_token_id], dtype=dtype).tobytes())
                    position += 1
            columns = zip(*rows, strict=True) if rows else ([], [], [], [])
            index = pa.table(dict(zip(_INDEX.names, map(list, columns), strict=True)), schema=_INDEX)
            pq.write_table(index, directory / f"{name}.index.parquet", compression="zstd")
            counts["documents"] += len(rows)
            counts["tokens"] += position
            counts["shards"] += 1
    return counts


def _encoded(documents: Iterable[TextDocument], tokenizer: Tokenizer) -> Iterator[tuple[str, list[int], int]]:
    """(id, token ids, bytes) of each document, encoded many at a time."""
    group: list[TextDocument] = []
    size = 0
    for document in itertools.chain(documents, [None]):
        if document is not None:
            group.append(document)
            size += len(document.text)
        if group and (document is None or size >= ENCODE_CHARACTERS):
            texts = [member.text for member in group]
            for member, ids in zip(group, tokenizer.encode_batch(texts), strict=True):
                yield member.id, ids, len(member.text.encode("utf-8", "replace"))
            group, size = [], 0


class TokenShards:
    """The token stream of one split, read through memory maps: nothing is loaded until it is looked at."""

    def __init__(self, directory: Path, split: str, vocab_size: int) -> None:
        self.directory, self.split = directory, split
        dtype = shard_dtype(vocab_size)
        self._files = sorted(directory.glob(f"{split}-*.bin"))
        if not self._files:
            raise InputError(f"{directory}: no token shards of the split '{split}'")
        # An empty file cannot be mapped; write_shards writes at least one token, so an empty one is torn.
        if any(path.stat().st_size == 0 for path in self._files):
            raise InputError(f"{directory}: a token shard of '{split}' is empty; delete {directory} to make it anew")
        self._maps = [np.memmap(path, dtype=dtype, mode="r") for path in self._files]
        self._starts = [0, *itertools.accumulate(len(tokens) for tokens in self._maps)]

    @property
    def tokens(self) -> int:
        """Number of tokens in the split."""
        return self._starts[-1]

    def read(self, start: int, count: int) -> NDArray[np.integer]:
        """Tokens `start` ... `start + count - 1` of the stream, across files where need be."""
        shard = bisect.bisect_right(self._starts, start) - 1
        offset = start - self._starts[shard]
        piece: NDArray[np.integer] = self._maps[shard][offset : offset + count]
        if len(piece) == count:
            return piece
        return np.concatenate([piece, self.read(start + len(piece), count - len(piece))])

    def documents(self, start: int, count: int) -> list[str]:
        """Ids of the documents that tokens `start` ... `start + count - 1` come from, in order."""
        found: list[str] = []
        for (base, end), (starts, ids) in zip(itertools.pairwise(self._starts), self._indexes, strict=True):
            if start < end and start + count > base:
                first = max(0, int(np.searchsorted(starts, start - base, side="right")) - 1)
                last = int(np.searchsorted(starts, start + count - base, side="left"))
                found += ids[first:last]
        return found

    @cached_property
    def _indexes(self) -> list[tuple[NDArray[np.int64], list[str]]]:
        tables = [pq.read_table(path.with_suffix(".index.parquet")) for path in self._files]
        return [(table["start"].to_numpy(), table["id"].to_pylist()) for table in tables]
