"""Objectives: pure functions (model, batch) -> summed loss and count. THE loop divides by the global count.

`linear_cross_entropy` is the last layer and the loss in one: it takes the rows in chunks, so that the logits of the
whole batch never exist, and computes its gradient on the way forward, when the logits of a chunk are at hand.

Shapes: N rows (B x T), C channels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from neolm.data.batches import IGNORED, Batch
from neolm.models.decoder import Decoder

CHUNK_ELEMENTS = 2**21  # logits at a time: 8 MiB in fp32, which stays in a CPU's cache


@dataclass(frozen=True)
class Loss:
    """A loss summed over `count` targets; `metrics` are further sums over the same targets, for the log."""

    total: Tensor
    count: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """What a training is for."""

    def __call__(self, model: Any, batch: Batch) -> Loss:
        """The loss of `model` on `batch`, differentiable."""
        ...


def causal_language_modelling(model: Decoder, batch: Batch) -> Loss:
    """-log p(next token), in nats, summed over all labels but the ignored (Radford et al. 2018, equation 1)."""
    hidden = model(batch.inputs, logits=False)  # (B, T, C)
    labels = batch.labels.reshape(-1)
    total = linear_cross_entropy(hidden.reshape(len(labels), -1), model.head.weight, labels)
    return Loss(total, (labels != IGNORED).sum())


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Sum over rows of the cross-entropy of softmax(hidden @ weight.T) at `labels`, a scalar in fp32.

    Args:
        hidden: (N, C), any floating type; the products are taken in it, softmax and sums in fp32.
        weight: (V, C), of the same type.
        labels: (N) int64 in 0 ... V-1, or -100 for rows that count for nothing.
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels)  # type: ignore[no-any-return, no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        N, V = len(labels), len(weight)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        rows = max(1, CHUNK_ELEMENTS // V)
        for start in range(0, N, rows):
            chunk = slice(start, min(start + rows, N))
            counted = labels[chunk] != IGNORED
            target = labels[chunk].clamp(min=0).unsqueeze(1)
            log_probability = F.log_softmax(hidden[chunk] @ weight.t(), dim=-1, dtype=torch.float32)  # (rows, V)
            total -= log_probability.gather(1, target).squeeze(1).where(counted, 0).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            # d loss / d logits = softmax - one-hot of the target, and 0 for ignored rows
            grad = log_probability.exp_()
            grad.scatter_add_(1, target, torch.full_like(target, -1, dtype=grad.dtype))
            grad = grad.mul_(counted.unsqueeze(1)).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[chunk])
            if grad_weight is not None:
                grad_weight += grad.t() @ hidden[chunk]
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (upstream,) = grads
        grad_hidden, grad_weight = (None if g is None else g * upstream.to(g.dtype) for g in ctx.saved_tensors)
        return grad_hidden, grad_weight, None
