"""A text as tokens with the characters of the raw text that each stands for, and the windows that a model reads."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neolm.tokenizer.tokenizer import Tokenizer

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class TextTokens:
    """The N tokens of a text, without special tokens."""

    text: str
    ids: Sequence[int]
    starts: Ints
    """(N,) index of the first character of each token, white space left out."""
    ends: Ints
    """(N,) index of the character after its last one; equal to the start if the token stands for no character."""

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N,) whether the token stands for a character that is no white space."""
        return self.starts < self.ends

    def covering(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and the last token of the characters from `start` to before `end`; None if there is none."""
        found = np.flatnonzero((self.ends > start) & (self.starts < end) & self.visible)
        return (int(found[0]), int(found[-1])) if len(found) else None


def text_tokens(tokenizer: Tokenizer, text: str) -> TextTokens:
    """The tokens of `text`. A token ends behind the accents that a tokenizer strips from its last character."""
    ids, offsets = tokenizer.encode_offsets(text)
    places = [_trimmed(text, start, end) for start, end in offsets]
    starts, ends = np.array(places, np.int64).reshape(-1, 2).T
    return TextTokens(text, ids, starts, ends)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and unicodedata.category(text[end]) in ("Mn", "Me"):
        end += 1
    return start, end


@dataclass(frozen=True)
class Windows:
    """The parts of a text of N tokens that a model reads, which overlap and together hold every token."""

    length: int
    """N."""
    starts: Sequence[int]
    """The first token of each."""
    size: int
    """Tokens of each; the last one may have fewer."""

    def __len__(self) -> int:
        return len(self.starts)

    def tokens(self, number: int) -> range:
        """The tokens of a window."""
        return range(self.starts[number], min(self.starts[number] + self.size, self.length))

    def with_most_context(self) -> Ints:
        """(N,) the window in which each token has the most context: the larger of the smaller sides.

        As in Google's code for SQuAD, a hundredth of the length of the window is added, and the first of equal ones is
        taken.
        """
        best, found = np.full(self.length, -np.inf), np.zeros(self.length, np.int64)
        for number in range(len(self)):
            part = self.tokens(number)
            left = np.arange(len(part))
            context = np.minimum(left, left[::-1]) + 0.01 * len(part)
            inside = slice(part.start, part.stop)
            found[inside] = np.where(context > best[inside], number, found[inside])
            best[inside] = np.maximum(context, best[inside])
        return found


def cut_windows(length: int, size: int, stride: int | None) -> Windows:
    """Windows of `size` tokens; each starts `stride` tokens after the one before it.

    Args:
        length: Tokens of the text.
        size: At least 1.
        stride: From 1 to `size`, so that no token is passed over; None: half of `size`, at least 1.
    """
    step = max(1, size // 2) if stride is None else stride
    assert 1 <= step <= size
    starts = [0]
    while starts[-1] + size < length:
        starts.append(starts[-1] + step)
    return Windows(length, starts, size)
