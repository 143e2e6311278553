"""Filters of clean text.

Duplicates are found later, in the whole corpus (`neolm.corpus.frames`). Unreadable records get their reason where they
are read (`neolm.corpus.records`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from neolm.corpus.config import CorpusConfig


def judge(text: str, config: CorpusConfig) -> str | None:
    """The reason for rejecting `text`, or None."""
    if not text or text.isspace():
        return "empty"
    if len(text.strip()) < config.min_characters:
        return "too_short"
    if has_longer_line(text, config.max_line_characters):
        return "too_long_lines"
    return "mostly_non_text" if text_fraction(text) < config.min_text_fraction else None


def has_longer_line(text: str, limit: int) -> bool:
    """Whether a line of `text` has more than `limit` characters."""
    start = 0
    while len(text) - start > limit:
        start = text.rfind("\n", start, start + limit + 1) + 1  # all lines before this line end are short enough
        if not start:
            return True
    return False


def text_fraction(text: str) -> float:
    """The share of letters, digits, combining marks and white space among the characters; 0 for an empty text."""
    found = 0
    for start in range(0, len(text), _SLICE):
        found += _text_characters(text[start : start + _SLICE])
    return found / len(text) if text else 0.0


def _text_characters(text: str) -> int:
    plain = text.encode("ascii", "ignore")  # most text is ASCII, and is counted in one pass in C
    found = len(plain.translate(None, _NON_TEXT_ASCII))
    if len(plain) < len(text):
        others = Counter("".join(_BEYOND_ASCII.findall(text)))
        found += sum(count for character, count in others.items() if _is_text(character))
    return found


def _is_text(character: str) -> bool:
    # Marks are the vowels of Indic scripts, and accents without a precomposed letter in NFC.
    return character.isalnum() or character.isspace() or unicodedata.category(character).startswith("M")


_SLICE = 2**20  # characters; the matches of a longer text would take 20 times its memory
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_NON_TEXT_ASCII = bytes(code for code in range(128) if not _is_text(chr(code)))
