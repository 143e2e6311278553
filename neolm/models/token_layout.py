"""Where the real tokens of a padded batch are, so that padding costs nothing.

Linear layers, norms and embeddings compute the real tokens only, as rows of one flat tensor. Attention needs them as
sequences again: sequences of nearly equal length form a bucket, and the shorter ones of a bucket are padded.

Shapes: B batch, T time, N real tokens of the batch, b sequences of a bucket, t its longest sequence, H heads,
D head size, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MAX_PADDING = 1.2
"""A bucket's longest sequence may be this many times as long as its shortest.

Without a gradient on a CPU, all sequences of a bucket have the same length: a call for each length costs less there
than the copies into padded sequences and a mask.
"""


@dataclass(frozen=True)
class Bucket:
    """Sequences of nearly equal length, consecutive in the flat tensor."""

    lengths: tuple[int, ...]

    @property
    def t(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return sum(self.lengths)

    @property
    def uniform(self) -> bool:
        """Whether all sequences have the same length."""
        return min(self.lengths) == self.t

    @cached_property
    def mask(self) -> Tensor:
        """(b, t), true for real tokens, on the CPU."""
        return torch.arange(self.t) < torch.tensor(self.lengths).unsqueeze(1)

    def padded_index(self, device: torch.device) -> Tensor:
        """(b * t), the row in the bucket's part of the flat tensor; padding gets row 0."""
        index = torch.zeros(self.mask.shape, dtype=torch.int64)
        index[self.mask] = torch.arange(self.tokens)
        return index.flatten().to(device)

    def flat_index(self, device: torch.device) -> Tensor:
        """(tokens of the bucket), the place in the padded (b * t) of each real token."""
        return self.mask.flatten().nonzero().flatten().to(device)


class Span:
    """A bucket with its indices on the model's device: from the flat tensor to padded sequences and back."""

    def __init__(self, bucket: Bucket, device: torch.device) -> None:
        self.tokens = bucket.tokens
        self.shape = (len(bucket.lengths), bucket.t)
        self.mask: Tensor | None = None
        if not bucket.uniform:
            self._padded, self._flat = bucket.padded_index(device), bucket.flat_index(device)
            self.mask = bucket.mask.to(device)[:, None, None, :]  # (b, 1, 1, t)

    def pad(self, x: Tensor) -> Tensor:
        """The bucket's rows (tokens, C) of the flat tensor to (b, t, C)."""
        return (x if self.mask is None else x[self._padded]).view(*self.shape, -1)

    def unpad(self, x: Tensor) -> Tensor:
        """(b, t, C) to the bucket's rows (tokens, C) of the flat tensor."""
        x = x.flatten(0, 1)
        return x if self.mask is None else x[self._flat]


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
        self._has_empty = B > 0 and min(lengths) == 0
        self.filling = _filling(starts[-1]) if self.index is not None and device.type == "cpu" else 0
        """Rows to add to the N tokens in the layers, so that few numbers of rows occur."""
        padding = 1.0 if device.type == "cpu" and not torch.is_grad_enabled() else MAX_PADDING
        self.spans = [Span(bucket, device) for bucket in _buckets(sorted_lengths, padding)]

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

    def positions(self) -> Tensor:
        """(N), the place of each real token in its sequence, padding included, as the published code counts it."""
        T = self.shape[1]
        index = torch.arange(self.shape[0] * T, device=self._firsts.device) if self.index is None else self.index
        return index % T


def _filling(tokens: int) -> int:
    """Rows from `tokens` to the next of 32 to 64 evenly spaced numbers: less than 1/32 of `tokens`.

    On a CPU, oneDNN compiles a kernel for each product of a new shape, and keeps the last ones. Nearly every batch has
    another number of tokens.
    """
    return -tokens % (1 << max(0, tokens.bit_length() - 6))


def _buckets(lengths: list[int], max_padding: float = MAX_PADDING) -> list[Bucket]:
    """Buckets of sequences with descending lengths; empty sequences are in none."""
    found: list[Bucket] = []
    begin = 0
    for place, length in enumerate([*lengths, 0]):
        if place > begin and (length == 0 or length * max_padding < lengths[begin]):
            found.append(Bucket(tuple(lengths[begin:place])))
            begin = place
        if length == 0:
            break
    return found
