"""Batches of packed sequences, each a pure function of (seed, step).

The token stream is cut into consecutive windows of T tokens. Documents continue across windows, with end-of-text
between them, and attention may cross from one to the next (Brown et al. 2020, appendix B). Example e of the run,
counted from 0 over all steps and devices, is window `Permutation(epoch)[e mod N]` of epoch `e div N`.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from neolm.core.errors import SettingError
from neolm.data.batch import Batch
from neolm.data.batch_sizes import BatchSizes
from neolm.data.order import Permutation
from neolm.data.shards import TokenShards


class TrainingBatches:
    """The training split in shuffled windows of `sequence_length` tokens; `sizes` gives the windows of each step."""

    def __init__(self, shards: TokenShards, sequence_length: int, sizes: BatchSizes, seed: int) -> None:
        """Raises SettingError if the stream is shorter than one window and a token to predict."""
        self.shards, self.sequence_length, self.sizes, self.seed = shards, sequence_length, sizes, seed
        self.examples = (shards.tokens - 1) // sequence_length
        """Windows of an epoch."""
        if self.examples < 1:
            raise SettingError(
                "sequence_length",
                f"the corpus has {shards.tokens} training tokens, fewer than one sequence of {sequence_length}. "
                "Add text, or choose a smaller value",
            )

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Return the batch of `step`, counted from 1, or the sequences `rows` of it, as a rank reads them."""
        return read_windows(self.shards, self._windows(step)[rows], self.sequence_length)

    def documents(self, examples: Sequence[int]) -> list[str]:
        """Ids of the documents in windows of the stream, each once."""
        T = self.sequence_length
        found = (self.shards.documents(window * T, T + 1) for window in examples)
        return list(dict.fromkeys(identity for ids in found for identity in ids))

    def _windows(self, step: int) -> NDArray[np.int64]:
        examples = self.sizes.examples(step)
        epoch, index = np.divmod(np.arange(examples.start, examples.stop), self.examples)
        return np.concatenate([self._permutation(int(number))(index[epoch == number]) for number in np.unique(epoch)])

    @lru_cache(maxsize=2)  # noqa: B019 - one instance a run
    def _permutation(self, epoch: int) -> Permutation:
        return Permutation(self.examples, self.seed, epoch)


def validation_batches(shards: TokenShards, sequence_length: int, batch_size: int, limit: int) -> list[Batch]:
    """Return at most `limit` windows of a split, evenly spread, in order; none if it is shorter than one window."""
    total = (shards.tokens - 1) // sequence_length
    chosen = np.unique(np.linspace(0, total - 1, min(limit, total)).astype(np.int64))
    return read_windows(shards, chosen, sequence_length).split(batch_size)


def read_windows(shards: TokenShards, windows: NDArray[np.int64], sequence_length: int) -> Batch:
    """Read windows of the stream, given by their numbers, as `input_ids` and `labels` (B, T)."""
    T = sequence_length
    tokens = np.empty((len(windows), T + 1), dtype=np.int64)
    for row, window in enumerate(windows):
        tokens[row] = shards.read(int(window) * T, T + 1)
    both = torch.from_numpy(tokens)
    return Batch({"input_ids": both[:, :-1], "labels": both[:, 1:]}, windows.tolist())
