"""Examples as a training reads them: windows of token ids with targets, in batches that are a function of the step.

Example e of a run, counted from 0 over all steps and devices, is window `Permutation(epoch)[e mod N]` of epoch
`e div N`, as in `neolm.data.batches`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from neolm.data.batch import Batch
from neolm.data.batch_sizes import BatchSizes
from neolm.data.order import Permutation
from neolm.finetuning.frozen_states import FrozenStates
from neolm.models.token_batches import padded
from neolm.prediction.text_windows import EncodedText
from neolm.tables.examples import Line


@dataclass(frozen=True)
class EncodedExamples:
    """N examples, of which each has one or more windows."""

    source: Path
    lines: Sequence[Line]
    """Line of each example in its table."""
    texts: Sequence[EncodedText]
    targets: Tensor
    """(N, ...) what the head is to give."""
    weights: Tensor
    """(N,) weight of each example in the loss; its windows share it."""
    states: FrozenStates | None = None
    """Hidden states of the windows after the frozen layers; None: the model computes them."""
    copies: Sequence[int] | None = None
    """How often each example is in an epoch; None: once."""

    @cached_property
    def windows(self) -> Sequence[tuple[int, int]]:
        """Example and number of each window of an epoch."""
        found = [(number, place) for number, text in enumerate(self.texts) for place in range(len(text.windows))]
        return found if self.copies is None else [one for one in found for _ in range(self.copies[one[0]])]

    def linear_weights(self) -> Tensor:
        """(N,) weights that do in one pass over the examples what an epoch does with its copies, 1 in the mean."""
        if self.copies is None:
            return self.weights
        weights = self.weights * torch.tensor(self.copies)
        return weights / weights.mean()

    def batch(self, windows: Sequence[int]) -> Batch:
        """The windows with these numbers: `input_ids`, `attention_mask`, `token_type_ids`, `targets`, `weights`.

        With `states` also `hidden`.
        """
        places = [self.windows[window] for window in windows]
        rows = [(self.texts[n].windows[w], self.texts[n].types[w]) for n, w in places]
        examples = [n for n, _ in places]
        shares = torch.tensor([1 / len(self.texts[n].windows) for n in examples])
        tensors = {
            **padded(rows),
            "targets": self.targets[examples],
            "weights": self.weights[examples] * shares,
        }
        if self.states is not None:
            tensors["hidden"] = self.states.batch(windows)
        return Batch(tensors, examples)

    def batches(self, size: int) -> list[Batch]:
        """See `Windows`."""
        return longest_first(self, [self._length(number) for number in range(len(self.windows))], size)

    @property
    def mean_length(self) -> float:
        """Mean length of the first windows in tokens."""
        return float(np.mean([len(text.windows[0]) for text in self.texts]))

    def places(self, examples: Sequence[int]) -> Iterator[str]:
        """Names of examples for a message."""
        return (f"{self.source}, line {self.lines[number]}" for number in examples)

    def _length(self, window: int) -> int:
        example, place = self.windows[window]
        return len(self.texts[example].windows[place])


class Windows(Protocol):
    """Windows that batches are made of."""

    @property
    def windows(self) -> Sequence[Any]:
        """All windows."""

    def batch(self, windows: Sequence[int]) -> Batch:
        """The windows with these numbers, and the examples that they are of."""

    def batches(self, size: int) -> list[Batch]:
        """All windows, in batches of at most `size` of nearly the same length, the longest first."""

    @property
    def mean_length(self) -> float:
        """Mean length in tokens, for the count of FLOPs."""

    def places(self, examples: Sequence[Any]) -> Iterator[str]:
        """Names of examples for a message."""


def longest_first(windows: Windows, lengths: Sequence[int], size: int) -> list[Batch]:
    """All windows, which have these lengths, in batches of `size`."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    return [windows.batch(order[start : start + size]) for start in range(0, len(order), size)]


class ExampleBatches:
    """Shuffled windows of the training examples; `sizes` gives the number of windows of each step."""

    def __init__(self, examples: Windows, sizes: BatchSizes, seed: int) -> None:
        self.examples, self.sizes, self.seed = examples, sizes, seed

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Return the batch of `step`, counted from 1, or the windows `rows` of it."""
        numbers = self.sizes.examples(step)
        epochs, index = np.divmod(np.arange(numbers.start, numbers.stop)[rows], len(self.examples.windows))
        parts = [self._permutation(int(epoch))(index[epochs == epoch]) for epoch in np.unique(epochs)]
        return self.examples.batch(np.concatenate(parts).tolist())

    def documents(self, examples: Sequence[int]) -> list[str]:
        """Files and lines of the examples."""
        return list(dict.fromkeys(self.examples.places(examples)))

    @lru_cache(maxsize=2)  # noqa: B019 - one instance a run
    def _permutation(self, epoch: int) -> Permutation:
        return Permutation(len(self.examples.windows), self.seed, epoch)
