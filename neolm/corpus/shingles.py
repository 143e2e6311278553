"""The shingles of a text: the set of its word n-grams, as hashes, by which near-duplicates are found.

Texts are normalised first, so that case, punctuation, white space and Unicode forms make no difference. Scripts that
are written without spaces have character n-grams. A text of fewer words than an n-gram has no shingles.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from neolm.kernels.shingles import hash_shingles, minima

Array = npt.NDArray[Any]

_SLICE = 2**20  # characters; the matches of a longer text would take many times its memory
_BUFFER_BYTES = 2**22
_ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() else 32 for code in range(128)) + bytes(range(128, 256))
# Thai, Lao, Burmese, Khmer, Japanese and Chinese
WITHOUT_SPACES = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff])"
)
# A run of characters whose words are those of the run alone
TOKEN = re.compile(rf"{WITHOUT_SPACES.pattern}|(?:(?!{WITHOUT_SPACES.pattern})\S)+")


def normalise(text: str) -> bytes:
    """The words of `text` in UTF-8, separated by spaces: NFKC, case-folded, letters, marks and numbers only.

    Characters of scripts without spaces are words of their own.
    """
    if not text.isascii():
        text = "".join(_normalise_slice(text[start : start + _SLICE]) for start in range(0, len(text), _SLICE))
    return text.encode("utf-8").translate(_ASCII)


def _normalise_slice(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    for character in set(text):
        if character > "\x7f" and unicodedata.category(character)[0] not in "LMN":
            is_invisible = unicodedata.category(character) == "Cf" and character != "\u200b"  # a zero-width space
            text = text.replace(character, "" if is_invisible else " ")
    return WITHOUT_SPACES.sub(r" \1 ", text)


def shingle_hashes(texts: Iterable[str], ngram: int) -> Iterator[tuple[Array, Array]]:
    """The shingles of some texts at a time: 32-bit hashes one after another, and the number of each text.

    A shingle that a text repeats is repeated here.
    """
    words: list[bytes] = []
    size = 0
    for text in texts:
        words.append(normalise(text))
        size += len(words[-1])
        if size >= _BUFFER_BYTES:
            yield _hashes(words, ngram)
            words, size = [], 0
    yield _hashes(words, ngram)


def _hashes(words: list[bytes], ngram: int) -> tuple[Array, Array]:
    ends = np.cumsum([len(text) for text in words], dtype=np.int64)
    hashes, counts = hash_shingles(np.frombuffer(b"".join(words), np.uint8), ends, ngram)
    return (hashes >> np.uint64(32)).astype(np.uint32), counts


def shingle_sets(texts: Iterable[str], ngram: int) -> list[Array]:
    """The shingles of each text, sorted, without repetition. uint32."""
    found = shingle_hashes(texts, ngram)
    return [np.unique(part) for hashes, counts in found for part in np.split(hashes, np.cumsum(counts))[:-1]]


def signatures(texts: Iterable[str], ngram: int, permutations: int) -> tuple[Array, Array]:
    """The MinHash signature of each text, (texts, permutations) uint32, and whether it has shingles, (texts,) bool."""
    masks, multipliers = _permutations(permutations)
    batches = [(minima(*found, masks, multipliers), found[1] > 0) for found in shingle_hashes(texts, ngram)]
    return np.concatenate([minimum for minimum, _ in batches]), np.concatenate([any_ for _, any_ in batches])


@cache
def _permutations(number: int) -> tuple[Array, Array]:
    """Masks and odd multipliers, the same in every process and for every version of NumPy."""
    drawn = np.frombuffer(hashlib.shake_128(b"MinHash").digest(8 * number), "<u4").reshape(number, 2)
    return drawn[:, 0].copy(), drawn[:, 1] | np.uint32(1)


def bucket_hashes(signature: Array, buckets: int, rows: int) -> Array:
    """The 64-bit hashes of the LSH buckets of each signature, of `rows` values each: (texts, buckets) uint64.

    The number of the bucket is part of its hash.
    """
    values = signature.reshape(len(signature), buckets, rows).astype(np.uint64)
    hashes = np.broadcast_to(np.arange(1, buckets + 1, dtype=np.uint64), values.shape[:2])
    for row in range(rows):
        hashes = (hashes ^ values[:, :, row]) * np.uint64(0xFF51AFD7ED558CCD)  # MurmurHash3's finalizer
        hashes = hashes ^ (hashes >> np.uint64(32))
    return hashes
