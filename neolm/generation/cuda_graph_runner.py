"""Decoding on a GPU as one captured graph: the processor starts one thing a token, not a thousand.

A step in which every text has one new token has always the same operations, only other numbers. So it is captured once
for each size (texts, pages of the longest; both rounded up) and replayed. Texts that fill up a size read a page that is
nobody's. All other steps are `TorchRunner`'s.

Shapes: B texts, C channels, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neolm.generation.kv_cache import BatchCache, KVCache, Span, blocks_for, kv_cache_dtype
from neolm.generation.model_runner import MAX_DECODE_TOKENS, CachedStep, TorchRunner, evaluating
from neolm.models.decoder import Decoder

MAX_CAPTURE_SIZE = 64  # texts in one graph


@dataclass
class _Graph:
    """A captured step: what is put in before `replay`, and what lies in `logits` after it."""

    ids: Tensor  # (B, 1)
    starts: Tensor  # (B, 1)
    tables: Tensor  # (B, pages)
    logits: Tensor  # (B, V)
    replay: Callable[[], None]


class CudaGraphRunner:
    """Reads as `TorchRunner` does, one token a text faster; the model's parameters must stay where they are.

    Graphs are bound to the pages that they were captured with. So the reader keeps pages of its own to lend, and is
    itself kept as long as its model is there (`cuda_graph_runner_of`).
    """

    max_decode_tokens = MAX_DECODE_TOKENS

    def __init__(self, model: Decoder) -> None:
        self._model = weakref.ref(model)
        self.place = model.norm.weight.data_ptr()
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._bound: weakref.ref[KVCache] | None = None  # the pages that the graphs were captured with
        self._memory: Any = None  # of what is computed on the way
        self._own: KVCache | None = None
        self._borrower: weakref.ref[BatchCache] | None = None

    @property
    def model(self) -> Decoder:
        """Who reads."""
        model = self._model()
        assert model is not None
        return model

    def cache(self, rows: int, capacity: int) -> BatchCache:
        """A cache in the reader's own pages, if nobody has them."""
        count = rows * blocks_for(capacity)
        if self._borrower is not None and self._borrower() is not None:
            return BatchCache(self.model, rows, capacity)
        if self._own is None or self._own.spare < count:
            self._own = None  # its memory goes before more is taken
            self._own = KVCache(self.model.config, _round_up(count), kv_cache_dtype(self.model), self.model.device)
        cache = BatchCache(self.model, rows, capacity, self._own)
        self._borrower = weakref.ref(cache)
        return cache

    @torch.inference_mode()
    def run(self, pages: KVCache, spans: Sequence[Span]) -> Tensor:
        """See `neolm.generation.model_runner.ModelRunner`."""
        if any(len(span.ids) != 1 or span.num_logits != 1 for span in spans) or len(spans) > MAX_CAPTURE_SIZE:
            return TorchRunner(self.model).run(pages, spans)
        if self._bound is None or self._bound() is not pages:
            self._graphs.clear()
            self._memory = None  # it ended with the last of its graphs
            self._bound = weakref.ref(pages)
        used = max(blocks_for(span.start + 1) for span in spans)
        size = _round_up(len(spans)), min(_round_up(used), blocks_for(self.model.config.max_position_embeddings))
        graph = self._graphs.get(size) or self._capture(pages, size)
        ids, starts = torch.zeros(2, size[0], 1, dtype=torch.int64)
        tables = torch.full((size[0], size[1]), pages.spare, dtype=torch.int64)
        for row, span in enumerate(spans):
            ids[row], starts[row] = span.ids[0], span.start
            own = span.block_table[: blocks_for(span.start + 1)]
            tables[row, : len(own)] = torch.from_numpy(own)
        for target, source in ((graph.ids, ids), (graph.starts, starts), (graph.tables, tables)):
            target.copy_(source, non_blocking=True)
        graph.replay()
        return graph.logits[: len(spans)].clone()

    def _capture(self, pages: KVCache, size: tuple[int, int]) -> _Graph:
        """A graph for this many texts and pages, all of which lie in the page that is nobody's meanwhile."""
        model, device = self.model, self.model.device
        ids, starts = torch.zeros(2, size[0], 1, dtype=torch.int64, device=device)
        tables = torch.full(size, pages.spare, dtype=torch.int64, device=device)
        graph = _Graph(ids, starts, tables, ids, lambda: None)

        def run() -> None:
            step = CachedStep(pages, starts, tables)
            hidden = model(ids, positions=starts, cache=step, logits=False)  # (B, 1, C)
            graph.logits = model.head(hidden[:, 0]).float()

        with evaluating(model):
            if device.type != "cuda":
                run()
                graph.replay = run
            else:
                graph.replay = self._captured(run)
        self._graphs[size] = graph
        return graph

    def _captured(self, run: Callable[[], None]) -> Callable[[], None]:
        side = torch.cuda.Stream(self.model.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up outside of the capture
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(captured, pool=self._memory):  # one for all: only one runs, and its logits are copied
            run()
        return captured.replay


_readers: weakref.WeakKeyDictionary[Decoder, CudaGraphRunner] = weakref.WeakKeyDictionary()


def cuda_graph_runner_of(model: Decoder) -> CudaGraphRunner:
    """The model's reader, the same as long as its parameters lie where they lay."""
    place = model.norm.weight.data_ptr()
    reader = _readers.get(model)
    if reader is None or reader.place != place:
        reader = _readers[model] = CudaGraphRunner(model)
    return reader


def _round_up(number: int) -> int:
    """To a power of two."""
    return 1 << (number - 1).bit_length()
