"""Windows of texts with targets for tokens, as a training reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from neolm.data.batch import IGNORED, Batch
from neolm.finetuning.encoded_examples import longest_first
from neolm.models.token_batches import padded


@dataclass(frozen=True)
class Window:
    """One sequence of tokens."""

    ids: Sequence[int]
    types: Sequence[int]
    targets: Sequence[int]
    """The label of each token, or the positions of the first and the last token of a span."""
    place: str
    """Where it is from, for a message."""


@dataclass(frozen=True)
class WindowExamples:
    """Windows of a training or a validation part. The targets are labels of tokens, or spans."""

    windows: Sequence[Window]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Windows as `input_ids`, `attention_mask` and `token_type_ids` (B, T), and `targets`.

        These are padded with -100 to the longest of the batch.
        """
        rows = [self.windows[number] for number in numbers]
        length = max(len(row.targets) for row in rows)
        targets = torch.tensor([[*row.targets, *[IGNORED] * (length - len(row.targets))] for row in rows])
        return Batch({**padded([(row.ids, row.types) for row in rows]), "targets": targets}, list(numbers))

    def batches(self, size: int) -> list[Batch]:
        """See `Windows`."""
        return longest_first(self, [len(window.ids) for window in self.windows], size)

    @property
    def mean_length(self) -> float:
        """Mean length in tokens."""
        return sum(len(window.ids) for window in self.windows) / len(self.windows)

    def places(self, examples: Sequence[int]) -> Iterator[str]:
        """Names of windows for a message."""
        return (self.windows[number].place for number in examples)
