"""Words of a text, for the filters, and how much of a text occurs more than once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from neolm.core.errors import SettingError
from neolm.core.files import expanded

WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
SYMBOLS = re.compile(r"[^\w\s]")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@lru_cache(maxsize=1)  # several filters read the words of one text
def words_of(text: str) -> Sequence[str]:
    """Words, with apostrophes inside, and every other character that is not white space."""
    return WORD.findall(text)


def word_list(setting: str, path: str) -> frozenset[str]:
    """The lines of the file that a setting names, in lower case.

    Raises:
        SettingError: the file cannot be read, or has no lines.
    """
    try:
        found = frozenset(line.strip().lower() for line in expanded(path).read_text("utf-8").splitlines()) - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(setting, f"{path} cannot be read: {error}") from None
    if not found:
        raise SettingError(setting, f"{path} has no words")
    return found


def duplicates(pieces: Sequence[str]) -> tuple[int, int]:
    """Number and characters of the pieces that occurred before."""
    repeated = len(pieces) - len(unique := set(pieces))
    return repeated, sum(map(len, pieces)) - sum(map(len, unique)) if repeated else 0


class NGrams:
    """Sequences of n words of a text. Two of them count as equal if a 64-bit hash of their words is equal."""

    def __init__(self, words: Sequence[str]) -> None:
        ids: dict[str, int] = {}
        self.ids = np.array([ids.setdefault(word, len(ids)) for word in words], np.uint64)
        self.lengths = np.concatenate(([0], np.cumsum([len(word) for word in words]))).astype(np.int64)

    def characters(self, n: int) -> NDArray[np.int64]:
        """(M,) characters of the words of each sequence."""
        return self.lengths[n:] - self.lengths[:-n]

    def top(self, n: int) -> int:
        """Characters, with spaces between words, of all occurrences of the most frequent sequence; 0: none repeats."""
        hashes = self._hashes(n)
        if not len(hashes):
            return 0
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        most = int(counts.max())
        if most == 1:
            return 0
        place = int(first[counts == most].min())
        return most * int(self.characters(n)[place] + n - 1)

    def repeated(self, n: int) -> int:
        """Characters of the sequences that occurred before; none overlaps the repeated one before it."""
        hashes = self._hashes(n)
        if not len(hashes):
            return 0
        _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        characters, seen, after, total = self.characters(n), set(), 0, 0
        for place in np.flatnonzero(counts[inverse] > 1).tolist():
            if place < after:
                continue
            if (gram := int(inverse[place])) in seen:
                total += int(characters[place])
                after = place + n
            else:
                seen.add(gram)
        return total

    def _hashes(self, n: int) -> NDArray[np.uint64]:
        size = len(self.ids) - n + 1
        if size < 1:
            return self.ids[:0]
        hashes = self.ids[:size].copy()
        for offset in range(1, n):
            hashes = (hashes ^ (hashes >> np.uint64(29))) * _MULTIPLIER + self.ids[offset : offset + size]
        return hashes
