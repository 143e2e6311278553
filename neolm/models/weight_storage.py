"""Memory for the weights of a loaded model: huge pages of 2 MiB (Linux), or files on disk.

Decoding one token reads every weight once. With pages of 4 KiB, 125M parameters are 60,000 pages, and the look-ups take
7% of the time (docs/log.md). Tensors are allocated together, because a single one is rarely aligned to huge pages.

Weights that stay on disk are memory maps of files. The system caches as much of the files as fits in memory and reads
the rest again for every token. The files have no names, so that nothing is left behind even after a crash.
"""

from __future__ import annotations

import contextlib
import mmap
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neolm.core.errors import InputError
from neolm.core.files import storage_errors
from neolm.core.progress import gibibytes

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


class DiskStorage:
    """The folder for `needed` bytes of weights: TMPDIR, or else the system's temporary folder."""

    def __init__(self, needed: int) -> None:
        self.folder = Path(tempfile.gettempdir())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"{self.folder}: the weights take {gibibytes(needed)} of disk and {gibibytes(free)} are free; "
                "set TMPDIR to a folder on another disk"
            )

    def store(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` on disk. Raises `StorageError` if the disk is full."""
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
        with storage_errors(self.folder), tempfile.TemporaryFile(dir=self.folder) as file:
            raw.tofile(file)
            file.flush()
            mapped = np.memmap(file, np.uint8, "r+")
        return torch.from_numpy(mapped).view(tensor.dtype).view(tensor.shape)
