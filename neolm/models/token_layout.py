"""Where the real tokens of a padded batch are, so that padding costs nothing.

Linear layers, norms and embeddings compute the real tokens only, as rows of one flat tensor. Attention needs them as
sequences again: sequences of nearly equal length form a bucket, and are padded to the same length there.

On a CPU, oneDNN compiles a kernel for each product of a new shape. So few lengths and few numbers of rows occur.

Shapes: B batch, T time, N real tokens of the batch, b sequences of a bucket, t length of its padded sequences, H heads,
D head size, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor


class Span:
    """A bucket: sequences that are padded to the same length and whose tokens are consecutive in the flat tensor."""

    def __init__(self, lengths: Sequence[int], t: int, device: torch.device) -> None:
        self.tokens = sum(lengths)
        self.shape = (len(lengths), t)
        self.mask: Tensor | None = None
        """(b, 1, 1, t), true for real tokens; None: there is no padding."""
        if self.tokens < len(lengths) * t:
            mask = torch.arange(t) < torch.tensor(lengths).unsqueeze(1)  # (b, t)
            places = mask.flatten().nonzero().flatten()
            sources = torch.zeros(mask.numel(), dtype=torch.int64)
            sources[places] = torch.arange(self.tokens)
            self._places, self._sources = places.to(device), sources.to(device)
            self.mask = mask[:, None, None, :].to(device)

    def pad(self, x: Tensor) -> Tensor:
        """The bucket's rows (tokens, C) of the flat tensor to (b, t, C), with the first row at the padding."""
        if self.mask is not None:
            x = x.index_select(0, self._sources)  # unlike index_copy, it does not keep x for its gradient
        return x.view(*self.shape, -1)

    def unpad(self, x: Tensor) -> Tensor:
        """(b, t, C) to the bucket's rows (tokens, C) of the flat tensor."""
        x = x.flatten(0, 1)
        return x if self.mask is None else x[self._places]


class TokenLayout:
    """The real tokens of a batch in flat order: sequence by sequence, longer ones first."""

    def __init__(self, shape: tuple[int, int], attention_mask: Tensor | None, device: torch.device) -> None:
        """`attention_mask` (B, T) is 1 for real tokens; None: all are real."""
        B, T = self.shape = shape
        self.index: Tensor | None = None
        """(N), the place in the padded (B * T) of each real token; None: they are all real, and in this order."""
        lengths = [T] * B if attention_mask is None else attention_mask.sum(dim=1, dtype=torch.int64).tolist()
        order = list(range(B))
        if attention_mask is not None and min(lengths, default=T) < T:
            order.sort(key=lambda row: -lengths[row])  # stable
            rows = torch.tensor(order, device=device)
            places = attention_mask[rows].bool().nonzero()  # (N, 2)
            self.index = rows[places[:, 0]] * T + places[:, 1]
        sorted_lengths = [lengths[row] for row in order]
        starts = [0]
        for length in sorted_lengths:
            starts.append(starts[-1] + length)
        firsts = [0] * B
        for place, row in enumerate(order):
            firsts[row] = starts[place] if lengths[row] else starts[-1]
        self._firsts = torch.tensor(firsts).to(device)
        self._lengths = lengths
        self._has_empty = B > 0 and min(lengths) == 0
        self.filling = filling_rows(starts[-1], device) if self.index is not None else 0
        """Rows to add to the N tokens in the layers, so that few numbers of rows occur."""
        # Without a gradient on a CPU, a call for each length costs less than copies into padded sequences and a mask.
        exact = self.index is None or (device.type == "cpu" and not torch.is_grad_enabled())
        buckets = groupby(filter(None, sorted_lengths), key=int if exact else lambda n: min(padded_length(n), T))
        self.spans = [Span([*lengths], t, device) for t, lengths in buckets]

    def flatten(self, x: Tensor) -> Tensor:
        """(B, T, ...) to (N, ...)."""
        flat = x.flatten(0, 1)
        return flat if self.index is None else flat[self.index]

    def unflatten(self, x: Tensor) -> Tensor:
        """(N, ...) to (B, T, ...), with zeros at the padding."""
        B, T = self.shape
        if self.index is not None:
            x = x.new_zeros((B * T, *x.shape[1:])).index_copy(0, self.index, x)
        return x.view(B, T, *x.shape[1:])

    def first_tokens(self, x: Tensor) -> Tensor:
        """(N, C) to the first token of each sequence, (B, C); zeros for an empty one."""
        if self._has_empty:
            x = torch.cat([x, x.new_zeros(1, x.shape[1])])
        return x[self._firsts]

    def mean(self, x: Tensor) -> Tensor:
        """(N, C) to the mean of each sequence, (B, C), computed in float32; zeros for an empty one."""
        B, T = self.shape
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        # Each sum has the order of its tokens, so that it does not depend on the batch.
        sums = wide.new_zeros(B, x.shape[1]).index_add(0, self._places() // T, wide)
        lengths = torch.tensor(self._lengths, device=x.device).clamp(min=1)
        return (sums / lengths.unsqueeze(1)).to(x.dtype)

    def positions(self) -> Tensor:
        """(N), the place of each real token in its sequence, padding included, as the published code counts it."""
        return self._places() % self.shape[1]

    def _places(self) -> Tensor:
        """(N), the place in the padded (B * T) of each real token."""
        B, T = self.shape
        return torch.arange(B * T, device=self._firsts.device) if self.index is None else self.index


def filling_rows(rows: int, device: torch.device) -> int:
    """On a CPU, rows from `rows` to the next of 32 to 64 evenly spaced numbers: less than 1/32 of `rows`."""
    return -rows % (1 << max(0, rows.bit_length() - 6)) if device.type == "cpu" else 0


def padded_length(length: int) -> int:
    """Length that a sequence is padded to: the next multiple of 16, or one of 8 to 16 evenly spaced numbers beyond."""
    step = 1 << max(4, length.bit_length() - 4)
    return -(-length // step) * step
