"""The validation loss for all contestants: over a whole split, in windows that do not overlap.

This module runs in each contestant's environment. Shapes: B windows, T tokens of a window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BATCH_WINDOWS = 128


@torch.no_grad()
def validation_loss(logits: Callable[[Tensor], Tensor], tokens: Path, window: int) -> float:
    """Return the loss in nats per token over the file `tokens` (uint16); `logits` maps ids (B, T) to (B, T, V)."""
    stream = torch.from_numpy(np.fromfile(tokens, dtype="<u2").astype(np.int64))
    count = (len(stream) - 1) // window
    inputs = stream[: count * window].view(count, window)
    labels = stream[1 : count * window + 1].view(count, window)
    total = 0.0
    for start in range(0, count, BATCH_WINDOWS):
        batch = slice(start, start + BATCH_WINDOWS)
        total += F.cross_entropy(
            logits(inputs[batch]).flatten(0, 1).float(), labels[batch].flatten(), reduction="sum"
        ).item()
    return total / (count * window)
