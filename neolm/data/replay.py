"""Batches of a domain's text with a share of other text, so that a model that goes on training does not forget it.

Of the first e examples of a run, counted from 0 over all steps and devices, the whole part of e x share is replayed.
So both parts of each step are known from its number, in any order of steps; each part is read as it would be alone.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from neolm.data.batch import IGNORED, Batch
from neolm.data.batch_sizes import BatchSizes

MAX_STEPS = 2**40


class Source(Protocol):
    """Batches that are a function of the step."""

    def batch(self, step: int, rows: slice) -> Batch:
        """The examples `rows` of the batch of `step`."""

    def documents(self, examples: Sequence[Any]) -> list[str]:
        """Names of the documents behind examples."""


@dataclass(frozen=True)
class PartSizes(BatchSizes):
    """The examples of one part of each step: the replayed ones, or the others."""

    share: float = 0.0
    replayed: bool = False

    def examples(self, step: int) -> range:
        """Indices, within the part, of its examples of `step`, counted from 1."""
        whole = super().examples(step)
        first, last = (int(bound * self.share) for bound in (whole.start, whole.stop))
        return range(first, last) if self.replayed else range(whole.start - first, whole.stop - last)

    def steps_for(self, examples: int) -> int:
        """Number of steps that read at least `examples` examples of the part."""
        return bisect.bisect_left(range(MAX_STEPS), examples, key=lambda step: self.examples(step).stop if step else 0)


def part_sizes(sizes: BatchSizes, share: float) -> tuple[PartSizes, PartSizes]:
    """The sizes of the domain's part and of the replayed part."""
    both = (PartSizes(sizes.full, sizes.start, sizes.ramp, share, replayed) for replayed in (False, True))
    return next(both), next(both)


class ReplayBatches:
    """Batches of which a part is replayed: first the rows of the domain, then the others."""

    def __init__(self, parts: Sequence[Source], sizes: Sequence[PartSizes]) -> None:
        self.parts, self.sizes = parts, sizes

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """Return the batch of `step`, counted from 1, or the examples `rows` of it.

        Its examples are pairs: the number of the part, and the index in it.
        """
        counts = [len(sizes.examples(step)) for sizes in self.sizes]
        chosen = range(sum(counts))[rows]
        border = sum(row < counts[0] for row in chosen)
        slices = (
            slice(chosen.start, chosen.start + border),
            slice(max(0, chosen.start - counts[0]), max(0, chosen.stop - counts[0])),
        )
        found = [
            (number, part.batch(step, here))
            for number, (part, here) in enumerate(zip(self.parts, slices, strict=True))
            if here.stop > here.start
        ]
        examples = [(number, example) for number, batch in found for example in batch.examples]
        batches = [batch for _, batch in found]
        return Batch({name: _joined(name, [batch[name] for batch in batches]) for name in batches[0]}, examples)

    def documents(self, examples: Sequence[tuple[int, Any]]) -> list[str]:
        """Names of the documents behind examples."""
        numbers = range(len(self.parts))
        each = (self.parts[n].documents([index for part, index in examples if part == n]) for n in numbers)
        return list(dict.fromkeys(name for names in each for name in names))


def _joined(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Rows of two batches; those of shorter sequences are padded, where the attention mask is 0."""
    if tensors[0].dim() == 1:
        return torch.cat(list(tensors))
    longest = max(tensor.shape[1] for tensor in tensors)
    value = IGNORED if name == "labels" else 0
    return torch.cat([F.pad(tensor, (0, longest - tensor.shape[1]), value=value) for tensor in tensors])
