"""Pure functions on one text: normalise it, cut it into parts, make any string safe to store as UTF-8."""

from __future__ import annotations

import unicodedata

BYTE_ORDER_MARK = "\ufeff"


def clean(text: str) -> str:
    r"""`text` in Unicode NFC, with `\n` for every line end and without a leading byte order mark; idempotent."""
    text = text.lstrip(BYTE_ORDER_MARK)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text)  # returns at once where nothing is to do


def split_text(text: str, limit: int) -> list[str]:
    """Parts of at most `limit` characters whose concatenation is `text`.

    Each cut is made after the last blank line that fits, else after the last line end, else after the last
    space, else at the limit.
    """
    parts, start = [], 0
    while len(text) - start > limit:
        end = _cut(text, start, start + limit)
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


def _cut(text: str, start: int, end: int) -> int:
    for mark in ("\n\n", "\n", " "):
        place = text.rfind(mark, start, end)
        if place > start:
            return place + len(mark)
    return end


def storable(text: str) -> str:
    r"""`text` with lone surrogates, which UTF-8 cannot hold, as `\udc80` escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_storable(text: str) -> bool:
    """Whether `text` can be encoded as UTF-8: JSON escapes and file names can smuggle in lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
