"""A batch of training examples: named tensors and the ids of the examples."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

IGNORED = -100  # a label that does not count, as in `torch.nn.functional.cross_entropy`


@dataclass(frozen=True)
class Batch:
    """Tensors by name, such as `input_ids` and `labels`. The first dimension of each is the example.

    `len(batch)` is the number of examples. `batch["labels"]` is a tensor, and `model(**batch)` passes all of them.
    """

    tensors: Mapping[str, Tensor]
    examples: Sequence[Any] = ()
    """Id of each example, by which an error message names the documents."""

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def keys(self) -> KeysView[str]:
        """Names of the tensors."""
        return self.tensors.keys()

    @property
    def tokens(self) -> int:
        """Number of tokens: those that `attention_mask` does not mask, or else elements of the first tensor."""
        mask = self.tensors.get("attention_mask")
        return self._first.numel() if mask is None else int(mask.count_nonzero())

    @property
    def _first(self) -> Tensor:
        return next(iter(self.tensors.values()))

    def split(self, size: int) -> list[Batch]:
        """Split into batches of at most `size` examples."""
        rows = [slice(start, start + size) for start in range(0, len(self), size)]
        return [Batch({name: t[part] for name, t in self.tensors.items()}, self.examples[part]) for part in rows]

    def to(self, device: str) -> Batch:
        """Copy to `device`."""
        return Batch({name: t.to(device, non_blocking=True) for name, t in self.tensors.items()}, self.examples)

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory, from which a GPU copies without making the host wait."""
        return Batch({name: t.pin_memory() for name, t in self.tensors.items()}, self.examples)
