"""The key-value cache: what decoding keeps of earlier tokens, for rows of different lengths.

A global layer keeps every token in a preallocated buffer, written in place at each row's own position. A local layer
keeps its window in a ring: the token at position p lies in slot p mod W. Softmax does not care about the order of
keys, so a single new token attends to the ring as it lies; and since a token overwrites exactly the one that leaves
the window, "slot < length" says which slots count in rings and buffers alike.

Rows that differ in length are padded to the right. Causal attention never lets padding influence a real token, so a
prefill needs no mask, and each row computes what it computes alone. Padding is never stored.

On a CPU the cache is fp32 whatever the model computes in: attention of one query over bf16 keys is eight times slower
there (measured: 1,350 against 166 microseconds for 12 heads and 1,024 keys), and widening loses nothing.

What it leaves out: pages shared between rows, and taking tokens back from a ring that has turned over.

Shapes: B rows, T new tokens, S keys attended to, H heads, D head size, W window, N tokens stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neolm.models.config import DecoderConfig


class Step:
    """What all layers share while the model reads `counts` new tokens after the `lengths` that each row holds."""

    def __init__(self, lengths: list[int], counts: list[int], device: torch.device) -> None:
        self.lengths, self.counts, self.device = lengths, counts, device
        self.width = max(counts)
        self.fresh = not any(lengths)
        self.uniform = len(set(lengths)) == 1 and len(set(counts)) == 1
        self.longest = max(length + count for length, count in zip(lengths, counts, strict=True))
        self._masks: dict[int | None, Tensor | None] = {}  # by slots of a ring; None: global
        self._targets: dict[int | None, tuple[Tensor, Tensor, Tensor]] = {}

    def positions(self, limit: int) -> Tensor:
        """Positions of the new tokens, (T) where all rows agree, else (B, T); padding stays below `limit`."""
        if self.uniform:
            start = self.lengths[0]
            return torch.arange(start, start + self.width, device=self.device)
        return self._spread().clamp(max=limit - 1)

    def visible(self, ring: int | None) -> Tensor | None:
        """Which keys each new token sees, (B or 1, 1, T, S); None where one token sees all of them."""
        ring = ring if self.width > 1 else None  # slots of a ring count as a buffer's do for one token
        if ring not in self._masks:
            self._masks[ring] = self._visible_in_ring(ring) if ring else self._visible()
        return self._masks[ring]

    def targets(self, slots: int, ring: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Row, index among the new tokens, and slot of every token to store, each (N); a ring takes its last only."""
        if ring not in self._targets:
            counts, new = self._column(self.counts), torch.arange(self.width, device=self.device)
            row, index = ((new < counts) & (new >= counts - slots)).nonzero(as_tuple=True)
            self._targets[ring] = (row, index, self._spread()[row, index] % slots)
        return self._targets[ring]

    def _visible(self) -> Tensor | None:
        if self.uniform and self.width == 1:
            return None
        keys = torch.arange(self.longest, device=self.device)
        return (keys <= self._spread().unsqueeze(-1)).unsqueeze(1)  # (B, 1, T, S)

    def _visible_in_ring(self, ring: int) -> Tensor:
        """Several tokens against [the ring as it was, the new tokens] within a window of `ring`."""
        lengths, queries = self._column(self.lengths), self._spread()
        slot = torch.arange(ring, device=self.device)
        held = lengths - 1 - (lengths - 1 - slot) % ring  # the last position before the step that fell into each slot
        keys = torch.cat([held, queries], dim=1)
        distance = queries.unsqueeze(2) - keys.unsqueeze(1)  # (B, T, W + T)
        return ((distance >= 0) & (distance < ring) & (keys >= 0).unsqueeze(1)).unsqueeze(1)

    def _spread(self) -> Tensor:
        return self._column(self.lengths) + torch.arange(self.width, device=self.device)  # (B, T)

    def _column(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.device).unsqueeze(1)  # (B, 1)


class DecoderCache:
    """Keys and values of up to `capacity` tokens in each of `rows` rows.

    A step is `plan`, the model's forward pass, `commit`; `next_logits` does the three. `lengths` are the tokens held.
    """

    def __init__(self, config: DecoderConfig, rows: int, capacity: int) -> None:
        self.lengths = [0] * rows
        self.capacity = capacity
        windows = (config.window(layer) for layer in range(config.num_layers))
        self._rings = [window if window and window < capacity else None for window in windows]
        self._keys: list[Tensor] = []  # each (rows, H, slots, D)
        self._values: list[Tensor] = []
        self._step: Step | None = None

    def plan(self, counts: Sequence[int], device: torch.device) -> Tensor:
        """Prepare to read `counts` new tokens (at least one) in each row; returns their positions, (T) or (B, T)."""
        step = self._step = Step(list(self.lengths), list(counts), device)
        assert min(counts) > 0 and step.longest <= self.capacity, (counts, self.lengths, self.capacity)
        return step.positions(self.capacity)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store a layer's new keys and values, as `neolm.models.attention.KeyValueCache` says."""
        step = self._step
        assert step is not None
        ring, rows = self._rings[layer], len(self.lengths)
        if layer == len(self._keys):  # allocated when the layer first speaks, of its size and where it computes
            self._allocate(keys, ring or self.capacity)
        if step.fresh:
            self._store(step, layer, keys, values)
            return keys, values, None
        visible = step.visible(ring)
        if ring and step.width > 1:  # the new tokens overwrite what the first of them still see: look, then store
            kept = self._keys[layer][:rows], self._values[layer][:rows]
            seen = (torch.cat([kept[0], keys.to(kept[0].dtype)], 2), torch.cat([kept[1], values.to(kept[1].dtype)], 2))
            self._store(step, layer, keys, values)
            return *seen, visible
        self._store(step, layer, keys, values)
        used = min(step.longest, ring or step.longest)
        if visible is not None and used < step.longest:
            visible = visible[..., :used]
        return self._keys[layer][:rows, :, :used], self._values[layer][:rows, :, :used], visible

    def commit(self) -> None:
        """The step's tokens now belong to the rows."""
        assert self._step is not None
        self.lengths = [old + new for old, new in zip(self._step.lengths, self._step.counts, strict=True)]
        self._step = None

    @torch.inference_mode()
    def drop(self, row: int) -> None:
        """Forget a row; the last row takes its number, so that only that row moves."""
        last = len(self.lengths) - 1
        length = self.lengths.pop()
        if row != last:
            self.lengths[row] = length
            for buffer in (*self._keys, *self._values):
                buffer[row, :, :length].copy_(buffer[last, :, :length])

    def rewind(self, row: int, length: int) -> bool:
        """Take back the tokens of a row after its first `length`; False: not possible, a ring has lost older ones."""
        ring = max((ring for ring in self._rings if ring), default=self.capacity)
        if length < self.lengths[row] and self.lengths[row] > ring:
            return False
        self.lengths[row] = min(length, self.lengths[row])
        return True

    def _allocate(self, keys: Tensor, slots: int) -> None:
        dtype = torch.float32 if keys.device.type == "cpu" else keys.dtype
        shape = (len(self.lengths), keys.shape[1], slots, keys.shape[3])
        # Zeros, not empty: a masked key weighs 0, and 0 x NaN is NaN. On a CPU the pages come when they are written.
        self._keys.append(torch.zeros(shape, dtype=dtype, device=keys.device))
        self._values.append(torch.zeros(shape, dtype=dtype, device=keys.device))

    def _store(self, step: Step, layer: int, keys: Tensor, values: Tensor) -> None:
        ring, rows = self._rings[layer], len(self.lengths)
        slots = ring or self.capacity
        start, stop = step.lengths[0], step.lengths[0] + step.width
        if step.uniform and (step.width == 1 or stop <= slots):
            start %= slots
            self._keys[layer][:rows, :, start : start + step.width].copy_(keys)
            self._values[layer][:rows, :, start : start + step.width].copy_(values)
            return
        row, index, slot = step.targets(slots, ring)
        for buffer, new in ((self._keys[layer], keys), (self._values[layer], values)):
            buffer[row, :, slot] = new[row, :, index].to(buffer.dtype)  # (N, H, D)
