"""A model reads new tokens of several texts, keeps their keys and values in pages, and says what comes next.

`reader_for` chooses: on a CPU compiled kernels (`neolm.generation.kernel_reader`), elsewhere the model as torch runs
it, here.

Shapes: B spans, T tokens of the longest, S keys, H heads, D head size, C channels, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from neolm.generation.pages import Pages, Span, pages_for
from neolm.kernels.attention import PAGE
from neolm.models.decoder import Decoder


class Reader(Protocol):
    """A model that reads."""

    model: Decoder

    def read(self, pages: Pages, spans: Sequence[Span]) -> Tensor:
        """Read `spans` into `pages`; fp32 logits (sum of `wanted`, V), span by span."""
        ...


def reader_for(model: Decoder) -> Reader:
    """The fastest reader of `model`, as it is now: change its weights in place or ask anew."""
    from neolm.generation.kernel_reader import KernelReader, why_not

    return TorchReader(model) if why_not(model) else KernelReader(model)


class TorchReader:
    """Reads with the model's own forward pass, on any device."""

    def __init__(self, model: Decoder) -> None:
        self.model = model

    @torch.inference_mode()
    def read(self, pages: Pages, spans: Sequence[Span]) -> Tensor:
        """See `Reader`. All spans together, padded on the right, which causal attention never sees."""
        device, width = self.model.device, max(len(span.ids) for span in spans)
        ids = torch.tensor([[*span.ids, *[0] * (width - len(span.ids))] for span in spans], device=device)  # (B, T)
        step = _Step(pages, spans, device)
        with evaluating(self.model):
            hidden = self.model(
                ids, positions=step.positions(self.model.config.max_position_embeddings), cache=step, logits=False
            )
            rows = [(row, len(span.ids) - n) for row, span in enumerate(spans) for n in range(span.wanted, 0, -1)]
            if not rows:
                return torch.empty(0, self.model.config.vocab_size, device=device)
            row, place = (torch.tensor(column, device=device) for column in zip(*rows, strict=True))
            logits: Tensor = self.model.head(hidden[row, place]).float()
            return logits


class _Step:
    """The pages as attention sees them while the model reads `spans`: `neolm.models.attention.KeyValueCache`."""

    def __init__(self, pages: Pages, spans: Sequence[Span], device: torch.device) -> None:
        self.pages, self.device = pages, device
        counts = [len(span.ids) for span in spans]
        self.width = max(counts)
        self.fresh = not any(span.start for span in spans)
        self.starts = torch.tensor([span.start for span in spans], device=device).unsqueeze(1)  # (B, 1)
        used = pages_for(max(span.start + count for span, count in zip(spans, counts, strict=True)))
        tables = np.zeros((len(spans), used), np.int64)
        for row, span in zip(tables, spans, strict=True):
            own = span.table[: pages_for(span.start + len(span.ids))]
            row[: len(own)] = own
        self.tables = torch.from_numpy(tables).to(device)  # (B, pages)
        real = torch.arange(self.width, device=device) < torch.tensor(counts, device=device).unsqueeze(1)
        self.row, self.index = real.nonzero(as_tuple=True)  # of each new token
        position = (self.starts + torch.arange(self.width, device=device))[self.row, self.index]
        self.page, self.slot = self.tables[self.row, position // PAGE], position % PAGE
        self._seen: dict[int | None, tuple[Tensor, Tensor]] = {}

    def positions(self, limit: int) -> Tensor:
        """Positions of the new tokens, (T) where all texts agree, else (B, T); padding stays below `limit`."""
        positions = self.starts + torch.arange(self.width, device=self.device)
        return positions[0] if len(positions) == 1 else positions.clamp(max=limit - 1)

    def update(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store a layer's new keys and values and return those to attend to."""
        new = (tensor[self.row, :, self.index] for tensor in (keys, values))
        self.pages.write(layer, self.page, self.slot, *new)
        if self.fresh:
            return keys, values, None
        tables, visible = self._visible(window)
        # On a CPU attention to bfloat16 keys is eight times slower than widening them (measured).
        dtype = torch.promote_types(keys.dtype, torch.float32) if keys.device.type == "cpu" else keys.dtype
        held, worth = self.pages.read(layer, tables)
        return held.to(dtype), worth.to(dtype), visible

    def _visible(self, window: int | None) -> tuple[Tensor, Tensor]:
        """The pages to look into (B, n), and which of their slots each new token sees (B, 1, T, 16 n)."""
        if window not in self._seen:
            oldest = (self.starts - window + 1).clamp(min=0) // PAGE if window else torch.zeros_like(self.starts)
            count = self.tables.shape[1]
            if window:
                count = min(count, pages_for(window + self.width) + 1)
            place = oldest + torch.arange(count, device=self.device)  # (B, n)
            tables = self.tables.gather(1, place.clamp(max=self.tables.shape[1] - 1))
            keys = (place.unsqueeze(-1) * PAGE + torch.arange(PAGE, device=self.device)).flatten(1)  # (B, S)
            queries = self.starts + torch.arange(self.width, device=self.device)  # (B, T)
            distance = queries.unsqueeze(2) - keys.unsqueeze(1)  # (B, T, S)
            visible = (distance >= 0) & (distance < window) if window else distance >= 0
            self._seen[window] = tables, visible.unsqueeze(1)
        return self._seen[window]


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
