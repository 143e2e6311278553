"""Batches of packed sequences, each a pure function of (seed, step).

The stream is cut into windows of T tokens, one after the other; documents run on across windows, with end-of-text
between them, and attention may cross from one to the next (Brown et al. 2020, appendix B). Example e of the run,
counted from 0 over all steps and devices, is window `Permutation(epoch)[e mod N]` of epoch `e div N`.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neolm.core.errors import InputError
from neolm.data.batch_sizes import BatchSizes
from neolm.data.order import Permutation
from neolm.data.shards import TokenShards

IGNORED = -100  # a label that no loss counts


@dataclass(frozen=True)
class Batch:
    """Token ids and what follows each of them; labels of -100 count for nothing."""

    inputs: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64

    def split(self, size: int) -> list[Batch]:
        """The batch in parts of at most `size` sequences."""
        starts = range(0, len(self.inputs), size)
        return [Batch(self.inputs[start : start + size], self.labels[start : start + size]) for start in starts]

    def to(self, device: str) -> Batch:
        """The batch on `device`."""
        return Batch(self.inputs.to(device, non_blocking=True), self.labels.to(device, non_blocking=True))


class TrainingBatches:
    """The training split in shuffled windows of `sequence_length` tokens, as many a step as `sizes` says."""

    def __init__(self, shards: TokenShards, sequence_length: int, sizes: BatchSizes, seed: int) -> None:
        self.shards, self.sequence_length, self.sizes, self.seed = shards, sequence_length, sizes, seed
        self.examples = count_windows(shards, sequence_length)

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of `step`, counted from 1; `rows` selects sequences of it, as a rank of many does."""
        return read_windows(self.shards, self._windows(step)[rows], self.sequence_length)

    def documents(self, step: int, rows: slice = slice(None)) -> list[str]:
        """Ids of the documents that the batch of `step` is made of."""
        windows = self._windows(step)[rows]
        T = self.sequence_length
        found = (self.shards.documents(int(window) * T, T + 1) for window in windows)
        return list(dict.fromkeys(identity for ids in found for identity in ids))

    def _windows(self, step: int) -> NDArray[np.int64]:
        examples = self.sizes.examples(step)
        example = np.arange(examples.start, examples.stop)
        epoch, index = np.divmod(example, self.examples)
        windows = np.empty_like(index)
        for number in np.unique(epoch):
            inside = epoch == number
            windows[inside] = self._permutation(int(number))(index[inside])
        return windows

    @lru_cache(maxsize=2)  # noqa: B019 - one instance a run
    def _permutation(self, epoch: int) -> Permutation:
        return Permutation(self.examples, self.seed, epoch)


def validation_batches(
    shards: TokenShards, sequence_length: int, batch_size: int, limit: int | None = None
) -> list[Batch]:
    """At most `limit` windows of a split, evenly spread, in order; empty if the split is shorter than one window."""
    total = max(0, shards.tokens - 1) // sequence_length
    chosen = (
        np.unique(np.linspace(0, total - 1, min(limit or total, total)).astype(np.int64)) if total else np.array([])
    )
    return [
        read_windows(shards, chosen[start : start + batch_size], sequence_length)
        for start in range(0, len(chosen), batch_size)
    ]


def count_windows(shards: TokenShards, sequence_length: int) -> int:
    """Whole windows of `sequence_length` tokens, and one more token to predict, in the stream.

    Raises:
        InputError: not even one.
    """
    windows = (shards.tokens - 1) // sequence_length
    if windows < 1:
        raise InputError(
            f"the corpus has {shards.tokens} tokens to train on, fewer than one sequence of {sequence_length}: "
            "give more text, or set pretrain.sequence_length lower"
        )
    return windows


def read_windows(shards: TokenShards, windows: NDArray[np.int64], sequence_length: int) -> Batch:
    """Windows by their number in the stream, as inputs and labels (B, T)."""
    T = sequence_length
    tokens = np.empty((len(windows), T + 1), dtype=np.int64)
    for row, window in enumerate(windows):
        tokens[row] = shards.read(int(window) * T, T + 1)
    both = torch.from_numpy(tokens)
    return Batch(both[:, :-1], both[:, 1:])
