"""Weights in contiguous memory that uses huge pages of 2 MiB (Linux).

Decoding one token reads every weight once. With pages of 4 KiB, 125M parameters are 60,000 pages, and the look-ups take
7% of the time (docs/log.md). Tensors are allocated together, because a single one is rarely aligned to huge pages.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import torch
from torch import Tensor

_PAGE = 2**21
_BLOCK = 2**25  # bytes of an allocation; the memory is committed when it is written
_LINE = 64


class HugePages:
    """An allocator for tensors in huge pages; without huge pages, tensors stay in their memory."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._first = self._end = 0  # the free part of it

    def store(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` in huge pages; a tensor that is not on the CPU is returned unchanged."""
        size = tensor.numel() * tensor.element_size()
        if size == 0 or tensor.device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
            return tensor
        if self._memory is None or size > self._end - self._first:
            self._allocate(max(size, _BLOCK))
        assert self._memory is not None
        # Each tensor has its own storage, because savers treat tensors that share one as the same.
        kept = torch.frombuffer(self._memory, dtype=tensor.dtype, count=tensor.numel(), offset=self._first)
        self._first += -(-size // _LINE) * _LINE
        return kept.view(tensor.shape).copy_(tensor.detach())

    def _allocate(self, size: int) -> None:
        """Allocate at least `size` bytes that begin at a huge page."""
        pages = -(-size // _PAGE)
        self._memory = mmap.mmap(-1, (pages + 1) * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a system without huge pages
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._first = -np.frombuffer(self._memory, np.uint8).ctypes.data % _PAGE
        self._end = self._first + pages * _PAGE
