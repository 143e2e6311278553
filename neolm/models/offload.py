"""Weights that stay on disk: each tensor is a memory map of a file.

The system caches as much of the files as fits in memory and reads the rest again for every token. The files are deleted
once they are mapped, so that nothing is left behind even after a crash.
"""

from __future__ import annotations

import os
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
    """The folder for the weights: TMPDIR, or else the system's temporary folder."""

    def __init__(self, needed: int) -> None:
        """Check the free space.

        Raises:
            InputError: the disk has fewer than `needed` bytes free.
        """
        self.folder = Path(tempfile.gettempdir())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"{self.folder}: the weights take {gibibytes(needed)} of disk and {gibibytes(free)} are free; "
                "set TMPDIR to a folder on another disk"
            )

    def store(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` on disk.

        Raises:
            StorageError: the disk is full.
        """
        if tensor.numel() == 0:
            return tensor
        shape, dtype = tensor.shape, tensor.dtype
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
        with storage_errors(self.folder):
            handle, name = tempfile.mkstemp(dir=self.folder, prefix="neolm-weights-")
            try:
                with os.fdopen(handle, "wb") as file:
                    raw.tofile(file)
                mapped = np.memmap(name, np.uint8, "r+")
            finally:
                Path(name).unlink()
        return torch.from_numpy(mapped).view(dtype).view(shape)
