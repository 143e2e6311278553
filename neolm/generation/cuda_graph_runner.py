"""Decoding on a GPU with CUDA graphs: one launch a step instead of a thousand.

A decode step, one new token in each sequence, always runs the same operations. It is captured once for each size
(number of sequences and of blocks of the longest, both rounded up to powers of two) and replayed. Padding sequences
read the padding block. All other steps go through `TorchRunner`.

Shapes: B sequences, C channels, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neolm.generation.kv_cache import BatchCache, KVCache, Span, blocks_for, kv_cache_dtype
from neolm.generation.model_runner import MAX_DECODE_TOKENS, CacheView, TorchRunner, evaluating
from neolm.models.decoder import Decoder

MAX_CAPTURE_SIZE = 64  # sequences in one graph


@dataclass
class _Graph:
    """A captured step: inputs to fill before `replay`, and `logits`, valid after it."""

    ids: Tensor  # (B, 1)
    starts: Tensor  # (B, 1)
    block_tables: Tensor  # (B, blocks)
    logits: Tensor  # (B, V)
    replay: Callable[[], None]


class CudaGraphRunner:
    """Runs decode steps as CUDA graphs; the model's parameters must not move.

    A graph is bound to the KV cache that it was captured with. So the runner owns a KV cache, which `cache` lends, and
    lives as long as its model (`cuda_graph_runner_of`).
    """

    max_decode_tokens = MAX_DECODE_TOKENS

    def __init__(self, model: Decoder) -> None:
        self._model = weakref.ref(model)
        self.address = model.norm.weight.data_ptr()
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._captured_with: weakref.ref[KVCache] | None = None
        self._memory: Any = None  # pool of intermediate results
        self._kv_cache: KVCache | None = None
        self._borrower: weakref.ref[BatchCache] | None = None

    @property
    def model(self) -> Decoder:
        """The model that runs."""
        model = self._model()
        assert model is not None
        return model

    def cache(self, rows: int, capacity: int) -> BatchCache:
        """Return a cache in the runner's own KV cache if that is free, otherwise in a new one."""
        count = rows * blocks_for(capacity)
        if self._borrower is not None and self._borrower() is not None:
            return BatchCache(self.model, rows, capacity)
        if self._kv_cache is None or self._kv_cache.num_blocks < count:
            self._kv_cache = None  # frees its memory before the next allocation
            model = self.model
            self._kv_cache = KVCache(model.config, _round_up(count), kv_cache_dtype(model), model.device)
        cache = BatchCache(self.model, rows, capacity, self._kv_cache)
        self._borrower = weakref.ref(cache)
        return cache

    @torch.inference_mode()
    def run(self, kv_cache: KVCache, spans: Sequence[Span]) -> Tensor:
        """See `neolm.generation.model_runner.ModelRunner`."""
        if any(len(span.ids) != 1 or span.num_logits != 1 for span in spans) or len(spans) > MAX_CAPTURE_SIZE:
            return TorchRunner(self.model).run(kv_cache, spans)
        if self._captured_with is None or self._captured_with() is not kv_cache:
            self._graphs.clear()
            self._memory = None  # the pool ends with its last graph
            self._captured_with = weakref.ref(kv_cache)
        used = max(blocks_for(span.start + 1) for span in spans)
        size = _round_up(len(spans)), min(_round_up(used), blocks_for(self.model.config.max_position_embeddings))
        graph = self._graphs.get(size) or self._capture(kv_cache, size)
        ids, starts = torch.zeros(2, size[0], 1, dtype=torch.int64)
        block_tables = torch.full(size, kv_cache.num_blocks)
        for row, span in enumerate(spans):
            ids[row], starts[row] = span.ids[0], span.start
            table = span.block_table[: blocks_for(span.start + 1)]
            block_tables[row, : len(table)] = torch.from_numpy(table)
        for target, source in ((graph.ids, ids), (graph.starts, starts), (graph.block_tables, block_tables)):
            target.copy_(source, non_blocking=True)
        graph.replay()
        return graph.logits[: len(spans)].clone()

    def _capture(self, kv_cache: KVCache, size: tuple[int, int]) -> _Graph:
        """Capture a graph for `size` sequences and blocks; meanwhile all sequences use the padding block."""
        model, device = self.model, self.model.device
        ids, starts = torch.zeros(2, size[0], 1, dtype=torch.int64, device=device)
        block_tables = torch.full(size, kv_cache.num_blocks, device=device)
        graph = _Graph(ids, starts, block_tables, ids, lambda: None)

        def run() -> None:
            view = CacheView(kv_cache, starts, block_tables)
            hidden = model(ids, positions=starts, cache=view, logits=False)  # (B, 1, C)
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
        with torch.cuda.stream(side):  # libraries initialise outside of the capture
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(captured, pool=self._memory):  # shared: one graph runs at a time
            run()
        return captured.replay


_runners: weakref.WeakKeyDictionary[Decoder, CudaGraphRunner] = weakref.WeakKeyDictionary()


def cuda_graph_runner_of(model: Decoder) -> CudaGraphRunner:
    """Return the model's runner, the same one until its parameters move."""
    runner = _runners.get(model)
    if runner is None or runner.address != model.norm.weight.data_ptr():
        runner = _runners[model] = CudaGraphRunner(model)
    return runner


def _round_up(number: int) -> int:
    """Round up to a power of two."""
    return 1 << (number - 1).bit_length()
