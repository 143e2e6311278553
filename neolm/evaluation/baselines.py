"""Compressors on the same documents, to compare a model's bits per byte with.

A model is a compressor: with arithmetic coding, a text takes as many bits as its negative log2-likelihood. `xz -9e`
(LZMA) learns from the document alone. zstd with a dictionary made from the training text starts, like the model, with
knowledge of such text. The size of the dictionary is not counted, and neither is the size of the model. It is reported
instead, because a larger dictionary always compresses better.

On 5% of Python 3.11's standard library (the quickstart's split and two others by hash;
dictionaries from the other 95%; bits per byte):

    xz -9e, each alone                        1.757   1.617   1.919
    xz -9e, all at once                       1.376   1.314   1.451
    zstd -19, each alone                      1.723   1.607   1.882
    zstd -19 with a dictionary of 110 KiB     1.439   1.389   1.564   (the default size of `zstd --train`)
    zstd -19 with a dictionary of 1 MiB       1.308   1.270   1.385   (the default here)
    zstd -19 with a dictionary of 4 MiB       1.235   1.207   1.306
    zstd -19 with a dictionary of 8 MiB       1.200   1.178   1.270

Dictionaries come from zstd's COVER algorithm with segments of 1000 bytes. If the segment size is left to COVER and the
dictionary has 2 MiB or more, it chooses segments so short that frequent ones run out near 400 KiB (1.335 and 1.482 on
the two other splits).
"""

from __future__ import annotations

import hashlib
import heapq
import lzma
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import zstandard

from neolm.core.device import usable_cores

ZSTD_LEVEL = 19  # the highest without --ultra; level 22 gains less than 0.001 bits per byte
SEGMENT_BYTES = 1000  # k of COVER
DMER_BYTES = 8  # d of COVER
FREQUENCY_BITS = 24  # log2 of the size of COVER's table; zstd's default of 20 costs 4 MiB up to 0.006 bits per byte
SAMPLE_CHUNK_BYTES = 16 * 1024  # documents are divided into samples of this size
MIN_SAMPLE_BYTES = 2**26  # training text for a dictionary, or 8 times its size; half of it costs 0.002 to 0.004
MAX_READ_BYTES = 2**30  # of training text; a large corpus is not read to its end for a comparison

T = TypeVar("T")


def xz_sizes(documents: Sequence[bytes]) -> list[int]:
    """Size of each document compressed alone by `xz -9e`, with container and checksum, as the command writes it."""
    return _parallel(xz_size, documents)


def xz_size(data: bytes) -> int:
    """Size of `data` compressed by `xz -9e`."""
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME))


def zstd_sizes(documents: Sequence[bytes], dictionary: zstandard.ZstdCompressionDict | None = None) -> list[int]:
    """Size of each document compressed alone by `zstd -19`, without the optional fields of the frame."""
    if dictionary is not None:
        dictionary.precompute_compress(level=ZSTD_LEVEL)

    def size(data: bytes) -> int:
        compressor = zstandard.ZstdCompressor(
            level=ZSTD_LEVEL,
            dict_data=dictionary,
            write_checksum=False,
            write_content_size=False,
            write_dict_id=False,
        )
        return len(compressor.compress(data))

    return _parallel(size, documents)


def train_dictionary(texts: Iterable[bytes], size: int) -> zstandard.ZstdCompressionDict | None:
    """Return a zstd dictionary of up to `size` bytes made from training texts; None if there is no text.

    If there is not more text than `size`, the dictionary is the text itself.
    """
    chosen = spread_sample(_head(texts, MAX_READ_BYTES), len, max(MIN_SAMPLE_BYTES, 8 * size), lambda text: text)
    if not chosen:
        return None
    total = sum(len(text) for text in chosen)
    if total > size:
        samples: list[bytes | bytearray | memoryview] = [
            text[i : i + SAMPLE_CHUNK_BYTES] for text in chosen for i in range(0, len(text), SAMPLE_CHUNK_BYTES)
        ]
        try:
            return zstandard.train_dictionary(size, samples, k=SEGMENT_BYTES, d=DMER_BYTES, f=FREQUENCY_BITS)
        except zstandard.ZstdError:
            pass  # too little text for a dictionary of this size
    return zstandard.ZstdCompressionDict(b"".join(chosen)[:size], dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def spread_sample(
    items: Iterable[T], size: Callable[[T], int], limit: int | None, key: Callable[[T], bytes], seed: int = 0
) -> list[T]:
    """Return items, chosen evenly by a hash of their key, until their sizes add up to `limit` or just above.

    The choice does not depend on the order of the items, and the result is in the order of the hashes. The items with
    the lowest hashes are chosen, so a larger limit only adds items. Memory holds the chosen items and one more.
    """
    heap: list[tuple[int, int, T]] = []
    total = 0
    for number, item in enumerate(items):
        digest = hashlib.sha256(f"{seed}:".encode() + key(item)).digest()
        heapq.heappush(heap, (-int.from_bytes(digest[:16], "big"), -number, item))
        total += size(item)
        while limit is not None and total - size(heap[0][2]) >= limit:
            total -= size(heapq.heappop(heap)[2])
    return [item for _, _, item in sorted(heap, key=lambda entry: (-entry[0], -entry[1]))]


def _head(texts: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """The first texts, up to `limit` bytes in all, without empty ones."""
    total = 0
    for text in texts:
        if total >= limit:
            return
        total += len(text)
        if text:
            yield text


def _parallel(size: Callable[[bytes], int], documents: Sequence[bytes]) -> list[int]:
    """`size` of each document, on all cores: both libraries release the GIL while they compress."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(size, documents))
