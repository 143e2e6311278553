"""The logits of windows, some thousand tokens at a time.

Shapes: B windows computed together, T time, K outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from neolm.generation.model_runner import evaluating
from neolm.models.encoder import Encoder
from neolm.models.token_batches import padded

MAX_TOKENS = 2**13
"""Tokens that are computed together, unless one window has more."""

Inputs = tuple[list[int], list[int]]
"""Token ids and token types of a window."""


def window_logits(model: Encoder, windows: Iterable[Inputs]) -> Iterator[NDArray[Any]]:
    """The logits (T, K) of each window in float64, in order, for a head that reads each token."""
    group: list[Inputs] = []
    tokens = 0
    for window in windows:
        if group and tokens + len(window[0]) > MAX_TOKENS:
            yield from _logits(model, group)
            group, tokens = [], 0
        group.append(window)
        tokens += len(window[0])
    if group:
        yield from _logits(model, group)


@torch.no_grad()
def _logits(model: Encoder, windows: Sequence[Inputs]) -> list[NDArray[Any]]:
    inputs = {name: tensor.to(model.device) for name, tensor in padded(windows).items()}
    with evaluating(model):
        logits = model(**inputs).double().cpu().numpy()  # (B, T, K)
    return [logits[number, : len(ids)] for number, (ids, _) in enumerate(windows)]
