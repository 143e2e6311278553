"""Bytes of tokens to text that can be shown at once: whole characters, and nothing that may yet be a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one continuation as it grows, up to the first stop string; `stopped` says that it has come.

    Bytes that are not UTF-8 become U+FFFD, exactly as if all were decoded in one go.
    """

    def __init__(self, stop: Sequence[str] = (), later: Sequence[str] = ()) -> None:
        """Begin.

        Args:
            stop: Ends the text wherever it stands.
            later: The same, but not in the space that the text begins with.
        """
        self.stopped = False
        self._stop, self._later = tuple(stop), tuple(later)
        self._blank = bool(later)  # nothing but space has come
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # may be the beginning of a stop string

    def feed(self, data: bytes) -> str:
        """Take the bytes of a token; returns the text that is now certain."""
        return self._release(self._decoder.decode(data))

    def finish(self) -> str:
        """The rest, when no more bytes come."""
        text = self._release(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        begin = len(text) - len(text.lstrip()) if self._blank else 0  # of what `later` is looked for in
        self._blank = self._blank and begin == len(text)
        found = [text.find(stop) for stop in self._stop] + [text.find(stop, begin) for stop in self._later]
        if any(place >= 0 for place in found):
            self.stopped, self._held = True, ""
            return text[: min(place for place in found if place >= 0)]
        held = [_overlap(text, stop) for stop in self._stop] + [_overlap(text[begin:], stop) for stop in self._later]
        certain = len(text) - max(held, default=0)
        self._held = text[certain:]
        return text[:certain]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without being all of it."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
