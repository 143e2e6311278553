"""Filters: pure functions from a clean text to the reason for rejecting it, or None.

Duplicates are found later, in the whole corpus (`neolm.corpus.frames`). Unreadable records get their reason where they
are read (`neolm.corpus.records`).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

from neolm.corpus.config import CorpusConfig

Filter = Callable[[str, CorpusConfig], str | None]


def empty(text: str, config: CorpusConfig) -> str | None:
    """Only white space, or no text."""
    return None if text and not text.isspace() else "empty"


def too_short(text: str, config: CorpusConfig) -> str | None:
    """Fewer characters than `min_characters`."""
    return "too_short" if len(text.strip()) < config.min_characters else None


def too_long_lines(text: str, config: CorpusConfig) -> str | None:
    """A line longer than `max_line_characters`."""
    limit = config.max_line_characters
    if len(text) <= limit:
        return None
    return "too_long_lines" if max(map(len, text.split("\n"))) > limit else None


def mostly_non_text(text: str, config: CorpusConfig) -> str | None:
    """A smaller share of letters, digits and white space than `min_text_fraction`."""
    return "mostly_non_text" if text_fraction(text) < config.min_text_fraction else None


FILTERS: tuple[Filter, ...] = (empty, too_short, too_long_lines, mostly_non_text)


def judge(text: str, config: CorpusConfig) -> str | None:
    """The reason of the first filter that rejects `text`, or None."""
    return next((reason for check in FILTERS if (reason := check(text, config)) is not None), None)


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
