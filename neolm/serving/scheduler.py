"""The order in which requests are admitted, prefilled and decoded.

Requests are admitted in the order of arrival, when memory for their longest possible text is free. No running request
is ever preempted. A smaller request may overtake one that does not fit yet, at most `MAX_OVERTAKES` times.

Each step computes some prompt tokens (chunked prefill) and then one token of every decoding request. Prompts of at most
`SHORT_PROMPT` tokens are prefilled at once, up to `chunk_size` tokens in total. Of the longer ones up to `chunk_size`
more tokens are computed, the shortest first in odd steps and the oldest first in even steps, so that none starves.

Of requests with the same prompt that were submitted as siblings, the first computes it and the others share its blocks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from neolm.generation.kv_cache import Span, blocks_for
from neolm.kernels.attention import BLOCK_SIZE
from neolm.serving.block_manager import BlockManager, PrefixId
from neolm.serving.request import Request

MAX_OVERTAKES = 64
SHORT_PROMPT = 32  # tokens
SCORING_CHUNK = 256  # prompt tokens whose logits are computed at once, when prompt log-probabilities are requested


@dataclass
class Scheduler:
    """Requests by state; `chunk_size` is a multiple of the block size."""

    block_manager: BlockManager
    chunk_size: int
    max_running: int
    strict: bool
    waiting: deque[Request] = field(default_factory=deque)
    prefilling: list[Request] = field(default_factory=list)
    decoding: list[Request] = field(default_factory=list)
    _step: int = 0

    @property
    def running(self) -> list[Request]:
        """Requests that are prefilled or decoded."""
        return [*self.prefilling, *self.decoding]

    def admit(self) -> None:
        """Move requests from waiting to prefilling, as long as memory is free."""
        skipped: list[Request] = []
        while self.waiting and len(self.running) < self.max_running:
            request = self.waiting.popleft()
            blocked = any(earlier.times_overtaken >= MAX_OVERTAKES for earlier in skipped)
            if blocked or request.waits_for_sibling or not self._reserve(request):
                skipped.append(request)
                continue
            self.prefilling.append(request)
            for earlier in skipped:
                earlier.times_overtaken += not earlier.waits_for_sibling
        self.waiting.extendleft(reversed(skipped))

    def _reserve(self, request: Request) -> bool:
        """Reserve all blocks that `request` may need, except those of its prefix that are cached."""
        blocks: list[int] = []
        prefix_id: PrefixId = request.cache_salt
        scored = request.prompt_logprobs is not None  # tokens with a log-probability have to be computed
        if not (scored and self.strict):
            multiple = self.chunk_size if self.strict else BLOCK_SIZE
            cacheable = request.token_ids[: request.scored_from] if scored else request.token_ids
            blocks, prefix_id = self.block_manager.match_prefix(cacheable, multiple, request.cache_salt)
        total = blocks_for(max(request.max_length - 1, request.num_prompt_tokens))  # the last token is not computed
        if total - len(blocks) > self.block_manager.num_free:
            self.block_manager.free(blocks)
            return False
        self.block_manager.num_reserved += total - len(blocks)
        request.block_ids, request.prefix_id = blocks, prefix_id
        request.num_cached_blocks, request.num_computed_tokens = len(blocks), len(blocks) * BLOCK_SIZE
        request.block_table = np.zeros(total, np.int64)
        request.block_table[: len(blocks)] = blocks
        return True

    def schedule_prefill(self) -> list[tuple[Request, Span]]:
        """Prompt chunks to compute in this step.

        Chunks end at multiples of `chunk_size`, so that the way a prompt is cut does not depend on other requests.
        """
        self._step += 1
        by_length = sorted(self.prefilling, key=lambda request: request.num_new_tokens)
        chosen: list[Request] = []
        budget = self.chunk_size
        for request in by_length:
            if request.num_new_tokens > min(SHORT_PROMPT, budget):
                break
            chosen.append(request)
            budget -= request.num_new_tokens
        others = [request for request in by_length if request not in chosen]
        if self._step % 2 == 0 and others:
            oldest = next(request for request in self.prefilling if request in others)
            others = [oldest, *(request for request in others if request is not oldest)]
        budget = self.chunk_size
        for number, request in enumerate(others):
            count = self._chunk(request)
            if number and count > budget:
                break
            chosen.append(request)
            budget -= count
        return [(request, self._span(request, self._chunk(request))) for request in chosen]

    def _chunk(self, request: Request) -> int:
        size = self.chunk_size if request.prompt_logprobs is None else min(self.chunk_size, SCORING_CHUNK)
        return min(request.num_new_tokens, size - request.num_computed_tokens % size)

    def schedule_decode(self) -> list[tuple[Request, Span]]:
        """The last token of every decoding request."""
        return [(request, self._span(request, 1)) for request in self.decoding]

    def _span(self, request: Request, count: int) -> Span:
        start, end = request.num_computed_tokens, request.num_computed_tokens + count
        while len(request.block_ids) * BLOCK_SIZE < end:
            block = self.block_manager.allocate()
            request.block_table[len(request.block_ids)] = block
            request.block_ids.append(block)
        num_logits = int(end == len(request.token_ids))
        if request.prompt_logprobs is not None and start < request.num_prompt_tokens:
            num_logits = count
        return Span(request.token_ids[start:end], start, request.block_table, num_logits)

    def update(self, request: Request, count: int) -> None:
        """Record that `count` more tokens of `request` are computed, and cache its full blocks."""
        prefilling = request.num_computed_tokens < request.num_prompt_tokens
        request.num_computed_tokens += count
        if prefilling and request.num_new_tokens == 0:
            self.prefilling.remove(request)
            self.decoding.append(request)
        # Tokens computed one by one, or in a shorter chunk, may differ in the last bit from those of a whole chunk.
        cacheable = request.num_computed_tokens
        if self.strict:
            whole_chunks = request.num_prompt_tokens // self.chunk_size * self.chunk_size
            cacheable = min(cacheable, whole_chunks if request.prompt_logprobs is None else 0)
        while (request.num_cached_blocks + 1) * BLOCK_SIZE <= cacheable:
            start = request.num_cached_blocks * BLOCK_SIZE
            request.prefix_id = self.block_manager.cache(
                request.block_ids[request.num_cached_blocks],
                request.prefix_id,
                request.token_ids[start : start + BLOCK_SIZE],
            )
            request.num_cached_blocks += 1

    def remove(self, request: Request) -> None:
        """Remove a request in any state, and free its blocks."""
        if request in self.waiting:
            self.waiting.remove(request)
        elif request in self.running:
            (self.prefilling if request in self.prefilling else self.decoding).remove(request)
            self.block_manager.num_reserved -= len(request.block_table) - len(request.block_ids)
            self.block_manager.free(request.block_ids)
            request.block_ids = []
