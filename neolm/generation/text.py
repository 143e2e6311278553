"""Incremental detokenisation: bytes of tokens to text that is final, and the search for stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one continuation as it grows, up to the first stop string; `stopped` tells whether that was found.

    Invalid UTF-8 becomes U+FFFD, exactly as if all bytes were decoded at once.
    """

    def __init__(self, stop: Sequence[str] = (), later: Sequence[str] = ()) -> None:
        """Begin an empty text; stop strings in `later` are not looked for in the white space at its beginning."""
        self.stopped = False
        self._stop, self._later = tuple(stop), tuple(later)
        self._blank = bool(later)  # only white space so far
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""  # may be the beginning of a stop string

    def feed(self, data: bytes) -> str:
        """Add the bytes of a token; returns the text that has become final."""
        return self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """Return the rest of the text; no more bytes follow."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._pending
        self._pending = ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._pending + new
        begin = len(text) - len(text.lstrip()) if self._blank else 0  # where the search for `later` begins
        self._blank = self._blank and begin == len(text)
        searches = [(stop, 0) for stop in self._stop] + [(stop, begin) for stop in self._later]
        found = [place for stop, start in searches if (place := text.find(stop, start)) >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)]
        final = len(text) - max((_overlap(text[start:], stop) for stop, start in searches), default=0)
        self._pending = text[final:]
        return text[:final]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
