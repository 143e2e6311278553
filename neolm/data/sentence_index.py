"""The sentences of a split and the documents that they belong to, file by file.

The positions of sentences stay memory-mapped; of each document, 40 bytes are in memory. Parts of one document, which
are neighbours in the stream, count as the same document where "another document" is drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from neolm.data.shards import TokenShards


class SentenceFile(NamedTuple):
    """The S sentences and D documents of one file of shards; positions are those in the file."""

    positions: NDArray[np.uint32]  # (S,) of the first token of each sentence
    firsts: NDArray[np.int64]  # (D + 1,) number of the first sentence of each document, and S
    ends: NDArray[np.int64]  # (D,) after the last token of each document


class SentenceIndex:
    """Sentences and documents of `shards`. Documents without a sentence cannot be drawn.

    Raises:
        InputError: the shards have no sentences (their tokenizer has no mask token), or a file is damaged.
    """

    def __init__(self, shards: TokenShards) -> None:
        tables = shards.index_tables("start", "tokens", "parent")
        self.files = [_sentence_file(*pair) for pair in zip(shards.sentence_positions(), tables, strict=True)]
        counts = [np.diff(file.firsts) for file in self.files]
        kept = [np.flatnonzero(count) for count in counts]
        self.sentences = sum(len(file.positions) for file in self.files)
        """Number of sentences."""
        self.file_of = np.repeat(np.arange(len(kept)), [len(rows) for rows in kept])
        """File of each document that has sentences (K,)."""
        self.row_of = np.concatenate(kept)
        """Its row in the index of the file (K,)."""
        self._numbers = [np.cumsum(count > 0) - 1 for count in counts]
        self._numbers = [own + sum(map(len, kept[:i])) for i, own in enumerate(self._numbers)]
        whole = pa.chunked_array([table["parent"].combine_chunks() for table in tables], pa.string())
        parents = whole.combine_chunks().dictionary_encode().indices.to_numpy()
        used = np.concatenate([count > 0 for count in counts]) if len(parents) else np.zeros(0, bool)
        changes = np.flatnonzero(np.diff(parents[used], prepend=-1))
        self._run_starts = np.append(changes, len(self.row_of))
        self._run_of = np.cumsum(np.diff(parents[used], prepend=-1) != 0) - 1

    @property
    def documents(self) -> int:
        """Number of documents that have sentences; the parts of a document are one."""
        return len(self._run_starts) - 1

    def parts_of_the_same(self, file: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first and the last, plus one, of the K documents that are parts of those in `rows` of a file."""
        run = self._run_of[self._numbers[file][rows]]
        return self._run_starts[run], self._run_starts[run + 1]


def _sentence_file(positions: NDArray[np.uint32], table: pa.Table) -> SentenceFile:
    starts = table["start"].to_numpy().astype(np.int64)
    firsts = np.append(np.searchsorted(positions, starts.astype(np.uint32)), len(positions)).astype(np.int64)
    return SentenceFile(positions, firsts, starts + table["tokens"].to_numpy())
