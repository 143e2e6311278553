"""A model reads new tokens of several texts, keeps their keys and values in pages, and says what comes next.

`model_runner_for` chooses: on a CPU compiled kernels (`neolm.generation.kernel_runner`), on a GPU captured graphs
(`neolm.generation.cuda_graph_runner`), elsewhere the model as torch runs it, here.

Shapes: B spans, T tokens of the longest, S keys, H heads, D head size, C channels, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from neolm.generation.kv_cache import BatchCache, KVCache, Span, blocks_for
from neolm.kernels.attention import BLOCK_SIZE
from neolm.models.decoder import Decoder

MAX_DECODE_TOKENS = 32  # tokens


class ModelRunner(Protocol):
    """Runs a model; spans of more than `max_decode_tokens` tokens may be computed in another way, as prompts."""

    max_decode_tokens: int

    @property
    def model(self) -> Decoder:
        """Who reads."""
        ...

    def run(self, pages: KVCache, spans: Sequence[Span]) -> Tensor:
        """Read `spans` into `pages`; fp32 logits (sum of `num_logits`, V), span by span."""
        ...


def model_runner_for(model: Decoder) -> ModelRunner:
    """The fastest reader of `model`, as it is now: change its weights in place or ask anew."""
    from neolm.generation.cuda_graph_runner import cuda_graph_runner_of
    from neolm.generation.kernel_runner import KernelRunner, why_not

    if model.device.type == "cuda":
        return cuda_graph_runner_of(model)
    return TorchRunner(model) if why_not(model) else KernelRunner(model)


def cache_for(reader: ModelRunner, rows: int, capacity: int) -> BatchCache:
    """A cache for up to `capacity` tokens in each of `rows` texts, where `reader` reads fastest."""
    from neolm.generation.cuda_graph_runner import CudaGraphRunner

    if isinstance(reader, CudaGraphRunner):
        return reader.cache(rows, capacity)
    return BatchCache(reader.model, rows, capacity)


class TorchRunner:
    """Reads with the model's own forward pass, on any device."""

    max_decode_tokens = MAX_DECODE_TOKENS

    def __init__(self, model: Decoder) -> None:
        self.model = model

    @torch.inference_mode()
    def run(self, pages: KVCache, spans: Sequence[Span]) -> Tensor:
        """See `ModelRunner`. All spans together, padded on the right, which causal attention never sees."""
        device, width = self.model.device, max(len(span.ids) for span in spans)
        ids = torch.tensor([[*span.ids, *[0] * (width - len(span.ids))] for span in spans], device=device)  # (B, T)
        step = step_of(pages, spans, device)
        # Where all texts are at the same place one row of positions serves; padding stays inside the tables.
        positions = step.positions.clamp(max=self.model.config.max_position_embeddings - 1)
        positions = positions[0] if len(spans) == 1 else positions
        with evaluating(self.model):
            hidden = self.model(ids, positions=positions, cache=step, logits=False)
            rows = [(row, len(span.ids) - n) for row, span in enumerate(spans) for n in range(span.num_logits, 0, -1)]
            if not rows:
                return torch.empty(0, self.model.config.vocab_size, device=device)
            row, place = (torch.tensor(column, device=device) for column in zip(*rows, strict=True))
            logits: Tensor = self.model.head(hidden[row, place]).float()
            return logits


class CachedStep:
    """One new token of each text, and the pages as attention sees them: `neolm.models.attention.KeyValueCache`.

    What it is made of are tensors, so that the same step can be captured once and replayed.
    """

    def __init__(
        self, pages: KVCache, starts: Tensor, tables: Tensor, counts: Tensor | None = None, width: int = 1
    ) -> None:
        """Prepare for the new tokens.

        Args:
            pages: Where keys and values go and are.
            starts: (B, 1), the position of each text's first new token.
            tables: (B, pages), all that the longest text needs.
            counts: (B, 1), new tokens of each text; None: `width` of each.
            width: New tokens of the text that has most.
        """
        self.pages, self.starts, self.tables = pages, starts, tables
        self.positions = starts + torch.arange(width, device=starts.device)  # (B, T)
        # Of each new token. Where no text is shorter than another, nothing has to be looked up.
        rows, indices = torch.arange(len(starts), device=starts.device), torch.arange(width, device=starts.device)
        if counts is None:
            self.row, self.index = rows.repeat_interleave(width), indices.repeat(len(starts))
        else:
            self.row, self.index = (indices < counts).nonzero(as_tuple=True)
        position = self.positions[self.row, self.index]
        self.page, self.slot = tables[self.row, position // BLOCK_SIZE], position % BLOCK_SIZE
        self._seen: dict[int | None, tuple[Tensor, Tensor]] = {}

    def update(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store a layer's new keys and values and return those to attend to."""
        self._store(layer, keys, values)
        tables, visible = self._visible(window)
        # On a CPU attention to bfloat16 keys is eight times slower than widening them (measured).
        dtype = torch.promote_types(keys.dtype, torch.float32) if keys.device.type == "cpu" else keys.dtype
        held, worth = self.pages.read(layer, tables)
        return held.to(dtype), worth.to(dtype), visible

    def _store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        if len(self.row) == len(self.starts) * self.positions.shape[1]:
            new = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (keys, values))
        else:
            new = (tensor[self.row, :, self.index] for tensor in (keys, values))
        self.pages.write(layer, self.page, self.slot, *new)

    def _visible(self, window: int | None) -> tuple[Tensor, Tensor]:
        """The pages to look into (B, n), and which of their slots each new token sees (B, 1, T, 16 n)."""
        if window not in self._seen:
            width, count = self.positions.shape[1], self.tables.shape[1]
            oldest = torch.zeros_like(self.starts)
            if window:
                oldest = (self.starts - window + 1).clamp(min=0) // BLOCK_SIZE
                count = min(count, blocks_for(window + width) + 1)
            place = oldest + torch.arange(count, device=self.starts.device)  # (B, n)
            tables = self.tables.gather(1, place.clamp(max=self.tables.shape[1] - 1))
            slots = torch.arange(BLOCK_SIZE, device=self.starts.device)
            keys = (place.unsqueeze(-1) * BLOCK_SIZE + slots).flatten(1)  # (B, S)
            distance = self.positions.unsqueeze(2) - keys.unsqueeze(1)  # (B, T, S)
            visible = (distance >= 0) & (distance < window) if window else distance >= 0
            self._seen[window] = tables, visible.unsqueeze(1)
        return self._seen[window]


class FreshStep(CachedStep):
    """The beginning of every text: attention needs no cache to look into."""

    def update(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store a layer's keys and values, which attention has already."""
        self._store(layer, keys, values)
        return keys, values, None


def step_of(pages: KVCache, spans: Sequence[Span], device: torch.device) -> CachedStep:
    """The step in which `spans` are read."""
    counts = [len(span.ids) for span in spans]
    starts = [span.start for span in spans]
    tables = np.zeros((len(spans), blocks_for(max(map(sum, zip(starts, counts, strict=True))))), np.int64)
    for row, span in zip(tables, spans, strict=True):
        own = span.block_table[: blocks_for(span.start + len(span.ids))]
        row[: len(own)] = own
    first, many = (torch.tensor(column, device=device).unsqueeze(1) for column in (starts, counts))
    kind = CachedStep if any(starts) else FreshStep
    ragged = many if len(set(counts)) > 1 else None
    return kind(pages, first, torch.from_numpy(tables).to(device), ragged, max(counts))


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model without dropout inside the block; every module is left as it was."""
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
