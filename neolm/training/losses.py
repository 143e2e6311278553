"""Objectives: pure functions (model, batch) -> summed loss and count. THE loop divides by the global count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from neolm.data.batches import IGNORED, Batch


@dataclass(frozen=True)
class Loss:
    """A sum over `count` targets that is minimised.

    `reported` is the loss that people see where that is another, as with a penalty; `metrics` are further sums over the
    same targets, for the log.
    """

    total: Tensor
    count: Tensor
    reported: Tensor | None = None
    metrics: dict[str, Tensor] = field(default_factory=dict)

    @property
    def value(self) -> Tensor:
        """The sum that is reported, without its graph."""
        return self.total.detach() if self.reported is None else self.reported.detach()


class Objective(Protocol):
    """What a training is for."""

    def __call__(self, model: Any, batch: Batch) -> Loss:
        """The loss of `model` on `batch`, differentiable."""
        ...


def causal_language_modelling(model: nn.Module, batch: Batch, z_loss: float = 0.0) -> Loss:
    """-log p(next token), in nats, summed over all labels but the ignored (Radford et al. 2018, equation 1).

    With `z_loss`, that weight times log^2 Z, Z the softmax's denominator, is added to what is minimised; it keeps the
    logits from drifting (Chowdhery et al. 2022, section 5; GPT-Neo's mesh-TensorFlow has it too).
    """
    total, entropy = model(batch.inputs, labels=batch.labels, z_loss=z_loss)
    count = (batch.labels != IGNORED).sum()
    if not z_loss:
        return Loss(total, count)
    return Loss(total, count, entropy, {"z_loss": total.detach() - entropy})
