"""Weights that stay on disk: each tensor is a memory map of a file.

The system caches as much of the files as fits in memory and reads the rest again for every token. The files have no
names, so that nothing is left behind even after a crash.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neolm.core.errors import InputError
from neolm.core.files import storage_errors
from neolm.core.progress import gibibytes


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
        if tensor.numel() == 0:
            return tensor
        shape, dtype = tensor.shape, tensor.dtype
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
        with storage_errors(self.folder), tempfile.TemporaryFile(dir=self.folder) as file:
            raw.tofile(file)
            file.flush()
            mapped = np.memmap(file, np.uint8, "r+")
        return torch.from_numpy(mapped).view(dtype).view(shape)
