"""Hidden states after the frozen layers of an encoder: computed once, kept in a file, and read in each epoch.

The frozen layers run without dropout, so that their hidden states do not depend on the step.

Shapes: N tokens of all windows, C channels, B windows of a batch, T time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from neolm.core.files import storage_errors, sync_file
from neolm.core.progress import say, task
from neolm.models.encoder import Encoder
from neolm.models.token_batches import padded, token_batches
from neolm.prediction.text_windows import Window

BATCH_TOKENS = 4096


class FrozenStates:
    """Hidden states of windows in a memory-mapped file."""

    def __init__(self, path: Path, windows: Sequence[Window], channels: int, dtype: torch.dtype) -> None:
        self.path, self.windows, self.dtype = path, windows, dtype
        self.starts = [0, *accumulate(len(ids) for ids, _ in windows)]
        self.shape = self.starts[-1], channels
        self.size = self.shape[0] * channels * dtype.itemsize
        """Bytes of the file."""

    def fits(self) -> bool:
        """Whether the file is there, or the disk has room for it. Prints its size, or that it does not fit."""
        if self.is_stored():
            return True
        size = f"{self.size / 2**20:,.0f} MiB"
        if self.size > shutil.disk_usage(self.path.parent).free:
            say(f"finetune: {size} of frozen hidden states do not fit on the disk, so each epoch computes them again")
            return False
        say(f"finetune: the hidden states of the frozen layers are computed once and take {size} until the end")
        return True

    def compute(self, model: Encoder, layers: int) -> None:
        """Write the hidden states after the first `layers` of `model`, unless the file is there.

        Raises:
            StorageError: the file cannot be written.
        """
        if self.is_stored():
            return
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with storage_errors(self.path), temporary.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.size)  # a write into a map of a full disk would kill the process
        self._write(model.eval(), layers, self._mapped(temporary))
        sync_file(temporary)
        temporary.replace(self.path)

    @torch.inference_mode()
    def _write(self, model: Encoder, layers: int, states: Tensor) -> None:
        with task("Computing the frozen layers", len(self.windows), "windows") as shown:
            for rows in token_batches([len(ids) for ids, _ in self.windows], BATCH_TOKENS):
                inputs = {name: x.to(model.device) for name, x in padded([self.windows[row] for row in rows]).items()}
                found = model(**inputs, layers=range(layers)).cpu()  # (B, T, C)
                for row, hidden in zip(rows, found, strict=True):
                    start, end = self.starts[row], self.starts[row + 1]
                    states[start:end] = hidden[: end - start]
                shown.advance(len(rows))

    def batch(self, windows: Sequence[int]) -> Tensor:
        """Hidden states (B, T, C) of the windows with these numbers, zero at the padding."""
        states = self._mapped(self.path)
        rows = [states[self.starts[window] : self.starts[window + 1]] for window in windows]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def is_stored(self) -> bool:
        """Whether the file is there. One of another size is of a run that went on in another precision."""
        return self.path.is_file() and self.path.stat().st_size == self.size

    def _mapped(self, path: Path) -> Tensor:
        """The file as a tensor, (N, C)."""
        tokens, channels = self.shape
        return torch.from_file(str(path), shared=True, size=tokens * channels, dtype=self.dtype).view(self.shape)
