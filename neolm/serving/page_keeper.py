"""Which pages are free, who holds the others, and which beginnings of texts they hold.

A full page may be found again by what it holds: its 16 tokens and all before them, by way of the page before it. When
nobody holds it any more it stays until its place is needed, the longest unused first (as vLLM's automatic prefix
caching does). Nothing here knows of tensors.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from neolm.kernels.attention import BLOCK_SIZE

Key = tuple[int, tuple[int, ...]]  # serial number of the page before (0: none), and the page's tokens


class PageKeeper:
    """`count` pages by number; `reserved` of them are promised to requests that do not hold them yet."""

    def __init__(self, count: int) -> None:
        self.count, self.reserved = count, 0
        self._blank = deque(range(count))
        self._users = [0] * count
        self._idle: OrderedDict[int, None] = OrderedDict()  # nobody's, but may be found; the longest unused first
        self._found: dict[Key, int] = {}
        self._keys: dict[int, tuple[Key, int]] = {}  # of pages that may be found, with their serial number
        self._serial = 0

    @property
    def free(self) -> int:
        """Pages that may be promised."""
        return len(self._blank) + len(self._idle) - self.reserved

    def find(self, ids: Sequence[int], whole: int = BLOCK_SIZE) -> tuple[list[int], int]:
        """Take a hold of the pages of the longest known beginning of `ids`, but not of all of it.

        Returns them and the serial number of the last; together they hold a multiple of `whole` tokens.
        """
        pages: list[int] = []
        serial = 0
        serials = [0]
        for start in range(0, (len(ids) - 1) // BLOCK_SIZE * BLOCK_SIZE, BLOCK_SIZE):
            page = self._found.get((serial, tuple(ids[start : start + BLOCK_SIZE])))
            if page is None:
                break
            serial = self._keys[page][1]
            serials.append(serial)
            pages.append(page)
        del pages[len(pages) * BLOCK_SIZE // whole * whole // BLOCK_SIZE :]
        for page in pages:
            self._users[page] += 1
            self._idle.pop(page, None)
        return pages, serials[len(pages)]

    def take(self) -> int:
        """A promised page, blank; what it held before is forgotten."""
        assert self.reserved > 0
        self.reserved -= 1
        if self._blank:
            page = self._blank.popleft()
        else:
            page, _ = self._idle.popitem(last=False)
            key, _ = self._keys.pop(page)
            del self._found[key]
        self._users[page] = 1
        return page

    def remember(self, page: int, before: int, tokens: Sequence[int]) -> int:
        """Let others find a full page; returns its serial number. An equal page found before stays the one found."""
        key = (before, tuple(tokens))
        known = self._found.get(key)
        if known is not None:
            return self._keys[known][1]
        self._serial += 1
        self._found[key] = page
        self._keys[page] = key, self._serial
        return self._serial

    def release(self, pages: Sequence[int]) -> None:
        """Let go of pages; the last of a text is given to others first."""
        for page in reversed(pages):
            self._users[page] -= 1
            if self._users[page] == 0:
                if page in self._keys:
                    self._idle[page] = None
                else:
                    self._blank.append(page)
