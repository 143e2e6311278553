"""The usual training loop (autocast, backward, clip, step), for peers that do not have their own.

Runs in the peers' environments. Shapes: B batch, T time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import BETAS, EPSILON, GRADIENT_CLIP, LEARNING_RATE, WEIGHT_DECAY
from torch import Tensor, nn


def windows(job: Mapping[str, Any]) -> Tensor:
    """Return the tokens of the job in windows of T + 1, as (N, T + 1) int64."""
    T = job["shape"]["sequence_length"]
    stream = np.fromfile(Path(job["data"]) / "train-00000.bin", dtype="<u2").astype(np.int64)
    return torch.from_numpy(stream[: len(stream) // (T + 1) * (T + 1)]).view(-1, T + 1)


def batches(job: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield random batches of windows, (B, T + 1), on the job's device, without end."""
    all_windows, generator = windows(job), torch.Generator().manual_seed(job["seed"])
    while True:
        chosen = torch.randint(len(all_windows), (job["shape"]["batch_size"],), generator=generator)
        yield all_windows[chosen].to(job["device"], non_blocking=True)


def autocast(job: Mapping[str, Any]) -> torch.autocast:
    """Return the autocast context of the job: bfloat16, or disabled."""
    return torch.autocast(
        torch.device(job["device"]).type, dtype=torch.bfloat16, enabled=job["precision"] == "bfloat16"
    )


def train_with_plain_loop(
    model: nn.Module, loss: Callable[[Any], Tensor], job: Mapping[str, Any], data: Iterable[Any] | None = None
) -> None:
    """Train `model` until the gate ends the process; `loss` returns the mean loss of a batch of `data`.

    Without `data` the batches are windows (B, T + 1) of the job's tokens.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY, fused=True
    )
    model.train()
    for batch in data or batches(job):
        with autocast(job):
            value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
