"""Who is served next.

Requests are let in in the order of their arrival, when memory for their longest possible text is free, so that nobody
who was let in is ever put out. One that needs less may pass one that does not fit yet, but only `PATIENCE` times.

In every turn some prompts are read, and then everybody who is writing gets a token. What is `SHORT` is read at once,
up to `chunk` tokens of it, so that it hardly waits; then as much of the others, of which the shortest goes first in
every other turn and the oldest in the turns between, so that a long one comes to its end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from neolm.generation.kv_cache import Span, blocks_for
from neolm.kernels.attention import BLOCK_SIZE
from neolm.serving.page_keeper import PageKeeper
from neolm.serving.request import Request

PATIENCE = 64
SHORT = 32  # tokens
SCORED = 256  # tokens of a prompt that are judged at once: each has logits of its own


@dataclass
class Scheduler:
    """Requests by state; `chunk` is a multiple of the page size."""

    keeper: PageKeeper
    chunk: int
    most: int  # requests that read or write at a time
    strict: bool
    waiting: deque[Request] = field(default_factory=deque)
    reading: list[Request] = field(default_factory=list)
    writing: list[Request] = field(default_factory=list)
    _turn: int = 0

    def let_in(self) -> None:
        """Move requests from waiting to reading, as far as memory goes."""
        kept: list[Request] = []
        while self.waiting and len(self.reading) + len(self.writing) < self.most:
            request = self.waiting.popleft()
            if any(earlier.passed >= PATIENCE for earlier in kept) or not self._admit(request):
                kept.append(request)
                continue
            for earlier in kept:
                earlier.passed += 1
        self.waiting.extendleft(reversed(kept))

    def _admit(self, request: Request) -> bool:
        """Promise `request` the pages that it may need, beside those that hold its beginning already."""
        if request.scores is None:
            pages, serial = self.keeper.find(request.ids, self.chunk if self.strict else BLOCK_SIZE)
        else:  # each token is to be judged, so each is read
            pages, serial = [], 0
        needed = blocks_for(request.readable) - len(pages)
        if needed > self.keeper.free:
            self.keeper.release(pages)
            return False
        self.keeper.reserved += needed
        request.pages, request.serial = pages, serial
        request.known, request.held = len(pages), len(pages) * BLOCK_SIZE
        request.table = np.zeros(blocks_for(request.readable), np.int64)
        request.table[: len(pages)] = pages
        self.reading.append(request)
        return True

    def next_pieces(self) -> list[tuple[Request, Span]]:
        """Pieces of prompts to read in this turn: what is short, and `chunk` tokens of others, or one piece.

        Pieces end at multiples of `chunk`, so that how a prompt is cut depends on nothing else.
        """
        self._turn += 1
        ordered = sorted(self.reading, key=lambda request: request.unread)
        chosen: list[Request] = []
        room = self.chunk
        for request in ordered:
            if request.unread > min(SHORT, room):
                break
            chosen.append(request)
            room -= request.unread
        others = [request for request in ordered if request not in chosen]
        if self._turn % 2 == 0 and others:
            oldest = next(request for request in self.reading if request in others)
            others.remove(oldest)
            others.insert(0, oldest)
        room = self.chunk
        for number, request in enumerate(others):
            count = self._piece(request)
            if number and count > room:
                break
            chosen.append(request)
            room -= count
        return [(request, self._span(request, self._piece(request))) for request in chosen]

    def _piece(self, request: Request) -> int:
        chunk = self.chunk if request.scores is None else min(self.chunk, SCORED)
        return min(request.unread, chunk - request.held % chunk)

    def next_tokens(self) -> list[tuple[Request, Span]]:
        """The last token of everybody who writes."""
        return [(request, self._span(request, 1)) for request in self.writing]

    def _span(self, request: Request, count: int) -> Span:
        end = request.held + count
        while len(request.pages) * BLOCK_SIZE < end:
            page = self.keeper.take()
            request.table[len(request.pages)] = page
            request.pages.append(page)
        wanted = int(end == len(request.ids)) if request.scores is None or request.held >= request.prompt else count
        return Span(request.ids[request.held : end], request.held, request.table, wanted)

    def was_read(self, request: Request, count: int) -> None:
        """Note that `count` more tokens of `request` are held; full pages may be found by others."""
        reading = request.held < request.prompt
        request.held += count
        if reading and request.unread == 0:
            self.reading.remove(request)
            self.writing.append(request)
        # What was written token by token, or in a piece cut short, is not what reading it in whole pieces gives.
        findable = request.held
        if self.strict:  # nor is a judged prompt, whose pieces may be shorter
            findable = request.prompt // self.chunk * self.chunk if request.scores is None else 0
        while (request.known + 1) * BLOCK_SIZE <= min(request.held, findable):
            start = request.known * BLOCK_SIZE
            tokens = request.ids[start : start + BLOCK_SIZE]
            request.serial = self.keeper.remember(request.pages[request.known], request.serial, tokens)
            request.known += 1

    def remove(self, request: Request) -> None:
        """Forget a request, in whatever state, and free its memory."""
        for column in (self.waiting, self.reading, self.writing):
            if request in column:
                column.remove(request)
                if column is not self.waiting:
                    self.keeper.reserved -= len(request.table) - len(request.pages)
                    self.keeper.release(request.pages)
                    request.pages = []
                return
