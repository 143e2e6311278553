"""Token shards: memory-mapped files of token ids, with an index from positions to documents.

A split is the stream  <eot> document <eot> document ... <eot>  in files `train-00000.bin` of little-endian uint16
(uint32 for vocabularies over 65,536 tokens). Each file has an index `train-00000.index.parquet` with one row per
document: `id`, `parent`, `source`, `start` (position of its first token, the <eot> before it, in the file), `tokens`
(including that <eot>) and `bytes` of its text. `train-00000.crc32` has the CRC-32 of each chunk of the file,
little-endian uint32; a chunk is checked when it is first read. The last <eot> belongs to no document. If the corpus has
divided documents, "document" means a part here, and `parent` is the id of the whole document.

For tokenizers of encoders, which have a mask token, each sentence is encoded by itself, and `train-00000.sentences` has
the position of each sentence's first token in the file, little-endian uint32. Their <eot> is [SEP].
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import threading
import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neolm.core.device import usable_cores
from neolm.core.errors import InputError
from neolm.core.manifest import intact_file
from neolm.core.progress import say, task
from neolm.corpus.documents import Document
from neolm.data.sentences import split_sentences
from neolm.data.word_cache import WordCache, encodes_words
from neolm.tokenizer.tokenizer import Tokenizer

MAX_SHARD_TOKENS = 2**27  # 256 MiB in uint16
CHUNK_BYTES = 2**16  # bytes of a shard that have a check sum
GROUP_CHARACTERS = 1_000_000  # text that is encoded in one call
MAX_WORDS_CHARACTERS = 8_000_000  # of such a group that is encoded by words, which takes some ten bytes a character

_TEXT, _NUMBER = pa.string(), pa.int64()
_INDEX = pa.schema(
    {"id": _TEXT, "parent": _TEXT, "source": _TEXT, "start": _NUMBER, "tokens": _NUMBER, "bytes": _NUMBER}
)


def shard_dtype(vocab_size: int) -> np.dtype[Any]:
    """Little-endian uint16 if every token id fits, else uint32."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def write_shards(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    directory: Path,
    split: str,
    total: int | None = None,
    shard_tokens: int = MAX_SHARD_TOKENS,
) -> dict[str, int]:
    """Encode `documents` into the shards of `split` and return the numbers of parts, tokens, bytes and shards.

    With the tokenizer of an encoder, the positions of sentences are written and the sentences counted too. `total`, the
    number of documents, is for the progress bar. A new file is started before one has more than `shard_tokens` tokens,
    unless a single document is longer.
    """
    dtype = shard_dtype(tokenizer.size)
    divided = has_sentences(tokenizer)
    counts = {"parts": 0, "tokens": 0, "bytes": 0, "shards": 0} | ({"sentences": 0} if divided else {})
    encoded = contextlib.closing(_encoded(documents, tokenizer, divided))
    with task(f"Encoding {split}", total, "documents") as progress, encoded as pending:
        following = next(pending, None)
        while following is not None or counts["shards"] == 0:
            name = f"{split}-{counts['shards']:05d}"
            rows: list[dict[str, Any]] = []
            sentences: list[NDArray[np.integer]] = []
            position = 0
            with (directory / f"{name}.bin").open("wb") as file:
                while following is not None and (position == 0 or position + len(following[1][0]) < shard_tokens):
                    document, (ids, starts) = following
                    tokens = np.concatenate([[tokenizer.eos_token_id], ids]).astype(dtype)
                    file.write(tokens.tobytes())
                    row = {"tokens": len(tokens), "bytes": len(document.text.encode("utf-8", "replace"))}
                    named = {"id": document.id, "parent": document.parent, "source": document.source}
                    rows.append({**named, "start": position, **row})
                    sentences.append(position + 1 + starts)
                    position += len(tokens)
                    counts["bytes"] += row["bytes"]
                    progress.advance()
                    following = next(pending, None)
                if following is None:  # the end of the stream
                    file.write(np.array([tokenizer.eos_token_id], dtype=dtype).tobytes())
                    position += 1
            _checksums(directory / f"{name}.bin").tofile(directory / f"{name}.crc32")
            if divided:
                found = np.concatenate([np.empty(0, np.int64), *sentences])
                found.astype("<u4").tofile(directory / f"{name}.sentences")
                counts["sentences"] += len(found)
            index = pa.Table.from_pylist(rows, schema=_INDEX)
            pq.write_table(index, directory / f"{name}.index.parquet", compression="zstd")
            counts["parts"] += len(rows)
            counts["tokens"] += position
            counts["shards"] += 1
    return counts


def has_sentences(tokenizer: Tokenizer) -> bool:
    """Whether shards of this tokenizer have positions of sentences: it is that of an encoder, with a mask token."""
    return getattr(tokenizer, "mask_token_id", None) is not None


Encoded = tuple[NDArray[np.integer], NDArray[np.int64]]
"""The token ids of a document, and the index of the first token of each sentence."""


def _encoded(documents: Iterable[Document], tokenizer: Tokenizer, divided: bool) -> Generator[tuple[Document, Encoded]]:
    """Each document with its tokens, in order. Groups of documents are encoded in threads, one for each core."""
    caches, by_words = threading.local(), not divided and encodes_words(tokenizer)

    def encode(group: list[Document]) -> list[Encoded]:
        if not by_words or sum(len(member.text) for member in group) > MAX_WORDS_CHARACTERS:
            return _by_library(group, tokenizer, divided)
        caches.words = getattr(caches, "words", None) or WordCache(tokenizer)
        return [(ids, np.zeros(1, np.int64)) for ids in caches.words.encode([member.text for member in group])]

    cores = usable_cores()
    waiting: deque[tuple[list[Document], Future[list[Encoded]]]] = deque()
    pool = ThreadPoolExecutor(cores, "encoding")
    try:
        for group in itertools.chain(_groups(documents), [None] * (cores + 1)):
            if group is not None:
                waiting.append((group, pool.submit(encode, group)))
            if waiting and (group is None or len(waiting) > cores):
                members, future = waiting.popleft()
                yield from zip(members, future.result(), strict=True)
    finally:  # after an interruption too, nothing runs on
        pool.shutdown(cancel_futures=True)


def _groups(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents in groups of at least GROUP_CHARACTERS; the last one may be smaller."""
    group: list[Document] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.text)
        if size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _by_library(group: list[Document], tokenizer: Tokenizer, divided: bool) -> list[Encoded]:
    """A document that is not `divided` is one sentence. A sentence without a token (control characters) is left out."""
    texts = [split_sentences(member.text) if divided else [member.text] for member in group]
    encoded = iter(tokenizer.encode_batch(list(itertools.chain.from_iterable(texts))))
    found: list[Encoded] = []
    for parts in texts:
        sentences = [ids for ids in itertools.islice(encoded, len(parts)) if ids]
        starts = np.cumsum([0, *map(len, sentences)])[:-1]
        found.append((np.fromiter(itertools.chain.from_iterable(sentences), np.int64), starts))
    return found


def _checksums(path: Path) -> NDArray[np.uint32]:
    """CRC-32 of each chunk of a file."""
    with path.open("rb") as file:
        return np.array([zlib.crc32(chunk) for chunk in iter(partial(file.read, CHUNK_BYTES), b"")], "<u4")


class TokenShards:
    """The token stream of one split. The files are memory-mapped, so only the tokens that are read are loaded.

    Raises:
        InputError: shards are missing or empty, or (from `read`) the check sum of a chunk is wrong.
    """

    def __init__(self, directory: Path, split: str, vocab_size: int) -> None:
        self.directory, self.split = directory, split
        dtype = shard_dtype(vocab_size)
        self._files = sorted(directory.glob(f"{split}-*.bin"))
        if not self._files:
            raise InputError(f"{directory}: no token shards of the split '{split}'")
        for path in self._files:  # `write_shards` writes at least one token, and an empty file cannot be mapped
            if path.stat().st_size == 0 or path.stat().st_size % dtype.itemsize:
                raise InputError(f"{path} is empty or ends within a token. Delete {directory} to rebuild it")
        # as plain arrays, whose slices are made in a third of the time
        self._maps = [np.asarray(np.memmap(path, dtype=dtype, mode="r")) for path in self._files]
        self._checksums = [self._stored_checksums(path) for path in self._files]
        # a 1 for each chunk that was found intact; shorter if there are no check sums, and `find` finds no 0
        self._checked = [bytearray(len(sums)) for sums in self._checksums]
        self._starts = [0, *itertools.accumulate(len(tokens) for tokens in self._maps)]

    @property
    def tokens(self) -> int:
        """Number of tokens in the split."""
        return self._starts[-1]

    def read(self, start: int, count: int) -> NDArray[np.integer]:
        """Tokens `start` to `start + count - 1` of the stream, which may be in several files."""
        shard = bisect.bisect_right(self._starts, start) - 1
        offset = start - self._starts[shard]
        tokens: NDArray[np.integer] = self._maps[shard][offset : offset + count]
        self._check(shard, offset * tokens.itemsize, tokens.nbytes)
        if len(tokens) == count:
            return tokens
        return np.concatenate([tokens, self.read(start + len(tokens), count - len(tokens))])

    def _check(self, shard: int, start: int, size: int) -> None:
        """Compare the chunks that hold `size` bytes from `start` on with their check sums, each chunk once."""
        checked = self._checked[shard]
        chunks = range(start // CHUNK_BYTES, -(-(start + size) // CHUNK_BYTES))
        if checked.find(0, chunks.start, chunks.stop) < 0:
            return
        content = self._maps[shard].data.cast("B")
        for chunk in chunks:
            data = content[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]
            if zlib.crc32(data) != self._checksums[shard][chunk]:
                raise InputError(
                    f"{self._files[shard]}: damaged between the bytes {chunk * CHUNK_BYTES:,} and "
                    f"{chunk * CHUNK_BYTES + len(data):,} (wrong check sum). Delete {self.directory} to rebuild it"
                )
            checked[chunk] = 1

    def _stored_checksums(self, path: Path) -> NDArray[np.uint32]:
        """The check sums of a shard; none, with a message, if an earlier version built it without them."""
        stored = path.with_suffix(".crc32")
        if not stored.is_file():
            say(f"{path}: there are no check sums, so damage in this shard cannot be detected")
            return np.empty(0, np.uint32)
        sums = np.fromfile(stored, "<u4")
        if len(sums) != -(-path.stat().st_size // CHUNK_BYTES):
            raise InputError(f"{stored} does not belong to {path.name}. Delete {self.directory} to rebuild it")
        return sums

    def documents(self, start: int, count: int) -> list[str]:
        """Ids of the documents of tokens `start` to `start + count - 1`, in order."""
        found: list[str] = []
        for (base, end), (starts, ids) in zip(itertools.pairwise(self._starts), self._indexes, strict=True):
            if start < end and start + count > base:
                first = max(0, int(np.searchsorted(starts, start - base, side="right")) - 1)
                last = int(np.searchsorted(starts, start + count - base, side="left"))
                found += ids[first:last]
        return found

    @cached_property
    def _indexes(self) -> list[tuple[NDArray[np.int64], list[str]]]:
        return [(table["start"].to_numpy(), table["id"].to_pylist()) for table in self.index_tables("start", "id")]

    def index_tables(self, *columns: str) -> list[pa.Table]:
        """Columns of the index of each file: a row for each document."""
        paths = [intact_file(self.directory, f"{path.stem}.index.parquet") for path in self._files]
        return [pq.read_table(path, columns=list(columns)) for path in paths]

    def sentence_positions(self) -> list[NDArray[np.uint32]]:
        """Position in its file of each sentence's first token, for each file; memory-mapped.

        Raises:
            InputError: a file is missing (the tokenizer has no mask token) or damaged.
        """
        paths = [intact_file(self.directory, f"{path.stem}.sentences") for path in self._files]
        return [np.asarray(np.memmap(p, "<u4", "r")) if p.stat().st_size else np.empty(0, np.uint32) for p in paths]

    @property
    def file_starts(self) -> list[int]:
        """Position in the stream of the first token of each file, and the end of the last."""
        return self._starts
