"""Pure functions on one text: normalise it, divide it into parts, find mojibake."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np

from neolm.core.text_encoding import BYTE_ORDER_MARK

# The bytes 0x80 to 0xBF of a UTF-8 sequence, read as Latin-1 or Windows-1252.
_CONTINUATION = r"[\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"
# The pattern starts with a set of characters, because the search for one is fast.
_MOJIBAKE = re.compile(
    r"[\ufffdâïÂÃÐÑä-é](?:(?<=\ufffd)|(?<=â)[\x80€]|(?<=ï)(?:»¿|¿½)"
    rf"|(?<=[ÂÃ])(?<![A-ZÀ-Þ].){_CONTINUATION}"
    rf"|(?<=[ÐÑ]){_CONTINUATION}[ÐÑ]{_CONTINUATION}"
    rf"|(?<=[ä-é]){_CONTINUATION}{{2}}[ä-é]{_CONTINUATION}{{2}})"
)


def clean(text: str) -> str:
    r"""`text` in Unicode NFC, with `\n` for every line end and without a leading byte order mark; idempotent."""
    text = text.lstrip(BYTE_ORDER_MARK)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > 4 * LONG_RUN and not text.isascii() and _may_have_long_run(text):
        text = _long_run().sub(lambda run: _in_canonical_order(run[0]), text)
    return unicodedata.normalize("NFC", text)  # returns at once if the text is normalised


LONG_RUN = 64  # combining marks; Unicode's stream-safe format (UAX 15) allows 30, no language needs ten


def _may_have_long_run(text: str) -> bool:
    """Whether two successive characters of every 32nd are combining marks, as in each run of LONG_RUN marks."""
    some = text[:: LONG_RUN // 2]
    if some.isascii():
        return False
    marks = _combining_classes()[_codes(some)] > 0
    return bool((marks[1:] & marks[:-1]).any())


def _codes(text: str) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def _combining_classes() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The canonical combining class of the first character of each character's decomposition."""
    classes = np.zeros(0x110000, np.uint8)
    for code in range(0x300, 0x20000):  # no character above is a mark
        classes[code] = unicodedata.combining(unicodedata.normalize("NFD", chr(code))[0])
    return classes


@cache
def _long_run() -> re.Pattern[str]:
    ends = np.flatnonzero(np.diff(_combining_classes() > 0))
    ranges = (f"{chr(start + 1)}-{chr(end)}" for start, end in zip(ends[::2], ends[1::2], strict=True))
    return re.compile(f"[{''.join(ranges)}]{{{LONG_RUN},}}")


def _in_canonical_order(run: str) -> str:
    """A run of combining marks, decomposed and sorted as NFC sorts it, which takes quadratic time."""
    decomposed = {ord(mark): unicodedata.normalize("NFD", mark) for mark in set(run)}
    codes = _codes(run.translate(decomposed))
    classes = _combining_classes()[codes]
    return "".join(codes[classes == kind].tobytes().decode("utf-32-le") for kind in np.unique(classes))


def has_mojibake(text: str) -> bool:
    """Whether `text` has U+FFFD or looks like UTF-8 that was read as Latin-1 or Windows-1252 (`Ã©` for `é`)."""
    return not text.isascii() and _MOJIBAKE.search(text) is not None


def split_text(text: str, limit: int) -> list[str]:
    """Parts of at most `limit` characters whose concatenation is `text`.

    Each part ends after the last blank line that fits, else after the last line end, else after the last space, else
    at the limit.
    """
    ends = [0, *part_ends(text, limit)]
    return [text[start:end] for start, end in itertools.pairwise(ends)]


def part_ends(text: str, limit: int) -> Iterator[int]:
    """Where each part of `split_text` ends."""
    start = 0
    while len(text) - start > limit:
        start = _cut(text, start, start + limit)
        yield start
    yield len(text)


def _cut(text: str, start: int, end: int) -> int:
    for mark in ("\n\n", "\n", " "):
        place = text.rfind(mark, start, end)
        if place > start:
            return place + len(mark)
    return end
