"""What compressors make of the same documents: the yardstick beside a model's bits per byte.

A model is a compressor: with arithmetic coding it stores a text in as many bits as its negative log2-likelihood says.
So do `xz -9e` (LZMA, which learns from the document alone) and zstd with a dictionary trained on the training text,
which starts, as the model does, from what it knows of such text. The size of the dictionary is not counted, just as
the size of the model is not; it is stated instead, for a larger dictionary always compresses better, until it is the
training text itself. On 5% of Python 3.11's standard library (the quickstart's split and two others by hash;
dictionaries from the other 95%; bits per byte):

    xz -9e, each alone                        1.757   1.617   1.919
    xz -9e, all at once                       1.376   1.314   1.451
    zstd -19, each alone                      1.723   1.607   1.882
    zstd -19 with a dictionary of 110 KiB     1.439   1.389   1.564   (the default size of `zstd --train`)
    zstd -19 with a dictionary of 1 MiB       1.308   1.270   1.385   (the default here)
    zstd -19 with a dictionary of 4 MiB       1.235   1.207   1.306
    zstd -19 with a dictionary of 8 MiB       1.200   1.178   1.270

Dictionaries come from zstd's COVER algorithm with segments of 1000 bytes. Left to choose the segments itself, and asked
for 2 MiB or more, it chooses so short ones that frequent ones run out near 400 KiB (1.335 and 1.482 in the two others).
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

ZSTD_LEVEL = 19  # the strongest before --ultra, whose 22 gains less than 0.001 bits per byte
SEGMENT = 1000  # bytes: COVER's k
DMER = 8  # bytes: COVER's d
FREQUENCIES = 24  # log2 of the table of d-mer frequencies; zstd's own 20 costs a dictionary of 4 MiB up to 0.006
CHUNK = 16 * 1024  # bytes: documents are cut into samples of this size
SAMPLE_BYTES = 2**26  # of training text for a dictionary, or 8 times its size: half of it costs 0.002 to 0.004
READ_BYTES = 2**30  # of training text, at the most: a large corpus is not read to its end for a yardstick

T = TypeVar("T")


def xz_sizes(documents: Sequence[bytes]) -> list[int]:
    """Bytes of each document alone under `xz -9e`, container and check sum included, as the command writes it."""
    return _parallel(xz_size, documents)


def xz_size(data: bytes) -> int:
    """Bytes of `data` under `xz -9e`."""
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME))


def zstd_sizes(documents: Sequence[bytes], dictionary: zstandard.ZstdCompressionDict | None = None) -> list[int]:
    """Bytes of each document alone under `zstd -19`, with all that is optional left out of the frame."""
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
    """A zstd dictionary of up to `size` bytes from training texts; None where there is no text.

    Where there is no more text than that, all of it is the dictionary.
    """
    chosen = spread_sample(_head(texts, READ_BYTES), len, max(SAMPLE_BYTES, 8 * size), lambda text: text)
    if not chosen:
        return None
    total = sum(len(text) for text in chosen)
    if total > size:
        samples: list[bytes | bytearray | memoryview] = [
            text[i : i + CHUNK] for text in chosen for i in range(0, len(text), CHUNK)
        ]
        try:
            return zstandard.train_dictionary(size, samples, k=SEGMENT, d=DMER, f=FREQUENCIES)
        except zstandard.ZstdError:
            pass  # too little text for so large a dictionary
    return zstandard.ZstdCompressionDict(b"".join(chosen)[:size], dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def spread_sample(
    items: Iterable[T], size: Callable[[T], int], limit: int | None, key: Callable[[T], bytes], seed: int = 0
) -> list[T]:
    """Whole items with together `limit` in size or just above, chosen evenly by a hash of their key.

    Which are chosen does not depend on their order, and they come in the order of their hash. Those with the lowest
    hashes are taken, so a larger limit only adds. No more than the chosen and one are held at any time.
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
    """Texts until there are `limit` bytes of them; empty ones are left out."""
    total = 0
    for text in texts:
        if total >= limit:
            return
        total += len(text)
        if text:
            yield text


def _parallel(size: Callable[[bytes], int], documents: Sequence[bytes]) -> list[int]:
    """`size` of each document, on all cores: both libraries let go of the interpreter while they compress."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(size, documents))
