"""Weights in memory side by side, in pages of 2 MiB.

A token reads every weight once. In pages of 4 KiB these are 60,000 pages for 125M parameters, each looked up anew: 7%
of a token's time (docs/log.md). A matrix by itself begins and ends within a large page, and a small one gets none.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import torch
from torch import Tensor

_PAGE = 2**21
_BLOCK = 2**25  # memory is asked for in blocks of so many bytes, and taken when it is written to
_LINE = 64


class LargePages:
    """Room for tensors, where the system has large pages to give (Linux); elsewhere they stay where they are."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._first = self._end = 0  # what is free of it

    def keep(self, tensor: Tensor) -> Tensor:
        """The same numbers, here; a tensor that is not on the CPU is given back as it is."""
        size = tensor.numel() * tensor.element_size()
        if size == 0 or tensor.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
            return tensor
        if self._memory is None or size > self._end - self._first:
            self._take(max(size, _BLOCK))
        assert self._memory is not None
        # A storage of its own, since who saves tensors takes those that share one for the same.
        kept = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=self._first)
        self._first += -(-size // _LINE) * _LINE
        return kept.view(tensor.shape).copy_(tensor.detach())

    def _take(self, size: int) -> None:
        """At least `size` bytes from the system, beginning with a large page."""
        pages = -(-size // _PAGE)
        self._memory = mmap.mmap(-1, (pages + 1) * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a system without them
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._first = -np.frombuffer(self._memory, np.uint8).ctypes.data % _PAGE
        self._end = self._first + pages * _PAGE
