"""Which tokens attend to which in one forward pass.

Shapes: B batch, T time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Visibility:
    """The masks of one forward pass, computed once and shared by the layers."""

    masks: Mapping[int | None, Tensor] = field(default_factory=dict)
    """Window of a layer (None: global) to its mask (B, 1, T, T). A window without a mask: causal, without padding."""

    @classmethod
    def causal(cls, attention_mask: Tensor, windows: Iterable[int | None]) -> Visibility:
        """Masks of a padded batch (`causal_mask`) for layers with these windows."""
        return cls({window: causal_mask(attention_mask, window) for window in windows})


CAUSAL = Visibility()
"""Causal visibility without padding, which attention computes without a mask."""


def causal_mask(attention_mask: Tensor, window: int | None) -> Tensor:
    """Mask of a padded batch, (B, 1, T, T): true where the query attends to the key.

    `attention_mask` (B, T) is true or 1 for real tokens, false or 0 for padding on either side.
    """
    T = attention_mask.shape[1]
    position = torch.arange(T, device=attention_mask.device)
    distance = position.unsqueeze(1) - position.unsqueeze(0)  # query minus key  # (T, T)
    visible = distance >= 0
    if window is not None:
        visible &= distance < window
    # A padding query attends to itself, so that no row of the softmax is empty.
    return (visible & attention_mask.bool()[:, None, None, :]) | (distance == 0)
