"""Conversations as a training reads them: token ids, and which of them are answers; several in a sequence.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from neolm.data.batch import IGNORED, Batch
from neolm.finetuning.encoded_examples import longest_first

ROUND = 32  # the length of a sequence is a multiple, so that few shapes occur


@dataclass(frozen=True)
class ConversationExample:
    """One conversation."""

    ids: Sequence[int]
    """All tokens but the last."""
    labels: Sequence[int]
    """The token after each, -100 where it is not part of an answer."""
    place: str
    """Where it is from, for a message."""


@dataclass(frozen=True)
class ConversationExamples:
    """Conversations of a training or a validation part."""

    windows: Sequence[ConversationExample]
    positions: int
    """Longest sequence that the model reads."""

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Conversations side by side in sequences as long as the longest of them.

        The tensors, each (B, T), are `input_ids`; `labels`; `positions`, which begin again with each conversation; and
        `attention_mask`, which has the numbers 1, 2, ... of a sequence's conversations, and 0 for padding. Attention
        does not cross from one to another. The batch's examples are the numbers of the conversations of a sequence.
        """
        rows = self._packed(numbers)
        longest = max(sum(len(self.windows[number].ids) for number in row) for row in rows)
        shape = len(rows), min(self.positions, -(-longest // ROUND) * ROUND)
        ids, mask, positions = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
        labels = torch.full(shape, IGNORED)
        for row, members in enumerate(rows):
            start = 0
            for place, number in enumerate(members, start=1):
                one = self.windows[number]
                part = slice(start, start + len(one.ids))
                ids[row, part], labels[row, part] = torch.tensor(one.ids), torch.tensor(one.labels)
                mask[row, part], positions[row, part] = place, torch.arange(len(one.ids))
                start = part.stop
        return Batch({"input_ids": ids, "attention_mask": mask, "positions": positions, "labels": labels}, rows)

    def _packed(self, numbers: Sequence[int]) -> list[tuple[int, ...]]:
        """The conversations of each sequence: first fit, the longest first (Johnson 1973)."""
        lengths = {number: len(self.windows[number].ids) for number in numbers}
        width = max(lengths.values())
        rows: list[list[int]] = []
        room: list[int] = []
        for number in sorted(numbers, key=lambda number: -lengths[number]):
            row = next((row for row, free in enumerate(room) if free >= lengths[number]), len(rows))
            if row == len(rows):
                rows.append([])
                room.append(width)
            rows[row].append(number)
            room[row] -= lengths[number]
        return [tuple(row) for row in rows]

    def batches(self, size: int) -> list[Batch]:
        """See `Windows`."""
        return longest_first(self, [len(one.ids) for one in self.windows], size)

    @property
    def mean_length(self) -> float:
        """Mean length in tokens."""
        return sum(len(one.ids) for one in self.windows) / len(self.windows)

    def places(self, examples: Sequence[Sequence[int]]) -> Iterator[str]:
        """Names of the conversations of sequences for a message."""
        return (self.windows[number].place for row in examples for number in row)
