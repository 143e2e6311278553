"""Model runners: compute new tokens of several sequences, store their keys and values, and return logits.

`model_runner_for` chooses: on a CPU compiled kernels (`neolm.generation.kernel_runner`), on a GPU CUDA graphs
(`neolm.generation.cuda_graph_runner`), elsewhere the model's own forward pass, `TorchRunner`.

Shapes: B spans, T tokens of the longest, S keys, H heads, D head size, C channels, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neolm.generation.kv_cache import BatchCache, KVCache, Span, blocks_for
from neolm.kernels.attention import BLOCK_SIZE
from neolm.models.decoder import Decoder
from neolm.models.hf_config import require_language_model

MAX_DECODE_TOKENS = 32


class ModelRunner(Protocol):
    """Runs a model on spans. Spans of more than `max_decode_tokens` tokens may be computed in another way (prefill)."""

    max_decode_tokens: int

    @property
    def model(self) -> Decoder:
        """The model that runs."""
        ...

    def run(self, kv_cache: KVCache, spans: Sequence[Span]) -> Tensor:
        """Compute `spans` and store their keys and values; returns fp32 logits (sum of `num_logits`, V) in order."""
        ...


def model_runner_for(model: Decoder) -> ModelRunner:
    """Return the fastest runner of `model`; it is valid as long as weights change only in place.

    Raises:
        InputError: the model is a classifier.
    """
    from neolm.generation.cuda_graph_runner import cuda_graph_runner_of
    from neolm.generation.kernel_runner import KernelRunner, why_not

    require_language_model(model.config, "generation")
    if model.device.type == "cuda":
        return cuda_graph_runner_of(model)
    return TorchRunner(model) if why_not(model) else KernelRunner(model)


def cache_for(runner: ModelRunner, rows: int, capacity: int) -> BatchCache:
    """Return the cache with which `runner` is fastest, for up to `capacity` tokens in each of `rows` rows."""
    from neolm.generation.cuda_graph_runner import CudaGraphRunner

    if isinstance(runner, CudaGraphRunner):
        return runner.cache(rows, capacity)
    return BatchCache(runner.model, rows, capacity)


class TorchRunner:
    """Runs the model's own forward pass, on any device."""

    max_decode_tokens = MAX_DECODE_TOKENS

    def __init__(self, model: Decoder) -> None:
        self.model = model

    @torch.inference_mode()
    def run(self, kv_cache: KVCache, spans: Sequence[Span]) -> Tensor:
        """See `ModelRunner`. Spans are padded on the right, where causal attention does not look."""
        device, width = self.model.device, max(len(span.ids) for span in spans)
        ids = torch.tensor([[*span.ids, *[0] * (width - len(span.ids))] for span in spans], device=device)  # (B, T)
        view = cache_view(kv_cache, spans, device)
        # Padding must stay within the position table; a single span needs no positions by row.
        positions = view.positions.clamp(max=self.model.config.max_position_embeddings - 1)
        positions = positions[0] if len(spans) == 1 else positions
        with evaluating(self.model):
            hidden = self.model(ids, positions=positions, cache=view, logits=False)
            rows = [(row, len(span.ids) - n) for row, span in enumerate(spans) for n in range(span.num_logits, 0, -1)]
            if not rows:
                return torch.empty(0, self.model.config.vocab_size, device=device)
            row, place = (torch.tensor(column, device=device) for column in zip(*rows, strict=True))
            logits: Tensor = self.model.head(hidden[row, place]).float()
            return logits


class CacheView:
    """The KV cache as attention sees it in one step: `neolm.models.attention.KeyValueCache`.

    It is made of tensors only, so that a step can be captured in a CUDA graph and replayed.
    """

    def __init__(
        self,
        kv_cache: KVCache,
        starts: Tensor,  # (B, 1), the position of each sequence's first new token
        block_tables: Tensor,  # (B, blocks), as many as the longest sequence needs
        counts: Tensor | None = None,  # (B, 1), new tokens of each sequence; None: `width` of each
        width: int = 1,  # largest number of new tokens
        prefill: bool = False,  # no sequence has cached tokens: attention stays within the new keys
    ) -> None:
        self.kv_cache, self.starts, self.block_tables, self.prefill = kv_cache, starts, block_tables, prefill
        self.positions = starts + torch.arange(width, device=starts.device)  # (B, T)
        # Row and index of each new token. With equal counts no `nonzero`, which a CUDA graph cannot capture.
        rows, indices = torch.arange(len(starts), device=starts.device), torch.arange(width, device=starts.device)
        if counts is None:
            self.row, self.index = rows.repeat_interleave(width), indices.repeat(len(starts))
        else:
            self.row, self.index = (indices < counts).nonzero(as_tuple=True)
        position = self.positions[self.row, self.index]
        self.block, self.slot = block_tables[self.row, position // BLOCK_SIZE], position % BLOCK_SIZE
        self._visible_blocks: dict[int | None, tuple[Tensor, Tensor]] = {}

    def update(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store a layer's new keys and values; returns the keys and values to attend to, and the mask."""
        self._store(layer, keys, values)
        if self.prefill:
            return keys, values, None
        blocks, visible = self._visible(window)
        # On a CPU attention to bfloat16 keys is eight times slower than widening them first (measured).
        dtype = torch.promote_types(keys.dtype, torch.float32) if keys.device.type == "cpu" else keys.dtype
        keys, values = self.kv_cache.read(layer, blocks)
        return keys.to(dtype), values.to(dtype), visible

    def _store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if len(self.row) == len(self.starts) * self.positions.shape[1]:
            new = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (keys, values))
        else:
            new = (tensor[self.row, :, self.index] for tensor in (keys, values))
        self.kv_cache.write(layer, self.block, self.slot, *new)

    def _visible(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Return the blocks to read (B, n) and the mask of the slots that each new token sees (B, 1, T, 16 n)."""
        if window not in self._visible_blocks:
            width, count = self.positions.shape[1], self.block_tables.shape[1]
            oldest = torch.zeros_like(self.starts)
            if window:
                oldest = (self.starts - window + 1).clamp(min=0) // BLOCK_SIZE
                count = min(count, blocks_for(window + width) + 1)
            index = oldest + torch.arange(count, device=self.starts.device)  # (B, n)
            blocks = self.block_tables.gather(1, index.clamp(max=self.block_tables.shape[1] - 1))
            slots = torch.arange(BLOCK_SIZE, device=self.starts.device)
            keys = (index.unsqueeze(-1) * BLOCK_SIZE + slots).flatten(1)  # (B, S)
            distance = self.positions.unsqueeze(2) - keys.unsqueeze(1)  # (B, T, S)
            visible = (distance >= 0) & (distance < window) if window else distance >= 0
            self._visible_blocks[window] = blocks, visible.unsqueeze(1)
        return self._visible_blocks[window]


def block_tables_of(spans: Sequence[Span]) -> NDArray[np.int64]:
    """Block tables of `spans`, (B, blocks of the longest), padded with block 0."""
    used = [span.block_table[: blocks_for(span.start + len(span.ids))] for span in spans]
    tables = np.zeros((len(spans), max(map(len, used))), np.int64)
    for row, table in zip(tables, used, strict=True):
        row[: len(table)] = table
    return tables


def cache_view(kv_cache: KVCache, spans: Sequence[Span], device: torch.device) -> CacheView:
    """Return the view of `kv_cache` for the step that computes `spans`."""
    counts = [len(span.ids) for span in spans]
    starts = [span.start for span in spans]
    first, many = (torch.tensor(column, device=device).unsqueeze(1) for column in (starts, counts))
    ragged = many if len(set(counts)) > 1 else None
    block_tables = torch.from_numpy(block_tables_of(spans)).to(device)
    return CacheView(kv_cache, first, block_tables, ragged, max(counts), prefill=not any(starts))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Disable dropout inside the block and restore the mode of every module after it."""
    if not model.training:
        yield
        return
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
