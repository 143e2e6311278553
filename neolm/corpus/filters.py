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
    limit = config.max_line_characters
    if len(text) > limit and max(map(len, text.split("\n"))) > limit:
        return "too_long_lines"
    return "mostly_non_text" if text_fraction(text) < config.min_text_fraction else None


def text_fraction(text: str) -> float:
    """The share of letters, digits, combining marks and white space among the characters; 0 for an empty text."""
    if not text:
        return 0.0
    plain = text.encode("ascii", "ignore")  # most text is ASCII, and is counted in one pass in C
    found = len(plain.translate(None, _NON_TEXT_ASCII))
    if len(plain) < len(text):
        others = Counter("".join(_BEYOND_ASCII.findall(text)))
        found += sum(count for character, count in others.items() if _is_text(character))
    return found / len(text)


def _is_text(character: str) -> bool:
    # Marks are the vowels of Indic scripts, and accents without a precomposed letter in NFC.
    return character.isalnum() or character.isspace() or unicodedata.category(character).startswith("M")


_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_NON_TEXT_ASCII = bytes(code for code in range(128) if not _is_text(chr(code)))
