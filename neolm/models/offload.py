"""Weights that stay on disk: the memory map of a file takes the place of each tensor.

The system keeps as much of the files in memory as there is room for and reads the rest again when it is wanted, for
every token. The files have no names once they are mapped, so that nothing is left behind, whatever happens.
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


class DiskPlace:
    """A folder for weights; the system's temporary one if none is named by TMPDIR."""

    def __init__(self, needed: int) -> None:
        """Make sure that there is room.

        Raises:
            InputError: the disk has less than `needed` bytes free.
        """
        self.folder = Path(tempfile.gettempdir())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"{self.folder}: the weights take {gibibytes(needed)} of disk and {gibibytes(free)} are free; "
                "TMPDIR may name another folder"
            )

    def keep(self, tensor: Tensor) -> Tensor:
        """The same numbers, on disk.

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
