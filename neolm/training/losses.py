"""Objectives: pure functions (model, batch) -> summed loss and count. THE loop divides by the global count.

`linear_cross_entropy` is the last layer and the loss in one: it takes the rows in chunks, so that the logits of the
whole batch never exist, and computes its gradient on the way forward, when the logits of a chunk are at hand.

Shapes: N rows (B x T), R rows of a chunk, C channels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from neolm.data.batches import IGNORED, Batch
from neolm.models.decoder import Decoder

# A chunk holds 8 MiB of fp32 logits, which stay in a CPU's cache, or so many rows that the products, which read all of
# the weight for each chunk, are not bound by memory.
CHUNK_ELEMENTS = 2**21
CHUNK_ROWS = 512
PRODUCT_ROWS = 2048


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


def causal_language_modelling(model: Decoder, batch: Batch, z_loss: float = 0.0) -> Loss:
    """-log p(next token), in nats, summed over all labels but the ignored (Radford et al. 2018, equation 1).

    With `z_loss`, that weight times log^2 Z, Z the softmax's denominator, is added to what is minimised; it keeps the
    logits from drifting (Chowdhery et al. 2022, section 5; GPT-Neo's mesh-TensorFlow has it too).
    """
    hidden = model(batch.inputs, logits=False)  # (B, T, C)
    labels = batch.labels.reshape(-1)
    total, entropy = linear_cross_entropy(hidden.reshape(len(labels), -1), model.head.weight, labels, z_loss)
    count = (labels != IGNORED).sum()
    if not z_loss:
        return Loss(total, count)
    return Loss(total, count, entropy, {"z_loss": total.detach() - entropy})


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float = 0.0) -> tuple[Tensor, Tensor]:
    """Sums over rows of cross-entropy of softmax(hidden @ weight.T) at `labels`, with and without z-loss.

    Args:
        hidden: (N, C), any floating type; the products are taken in it, softmax and sums in fp32.
        weight: (V, C), of the same type.
        labels: (N) int64 in 0 ... V-1, or -100 for rows that count for nothing.
        z_loss: Weight of log^2 of the softmax's denominator.

    Returns:
        Two scalars in fp32: the sum of both, which has a gradient, and the cross-entropy alone, which has none.
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, z_loss)  # type: ignore[no-any-return, no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        N, V = len(labels), len(weight)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        entropy = torch.zeros_like(total)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        rows = max(CHUNK_ROWS, CHUNK_ELEMENTS // V)
        all_count = labels.device.type == "cpu" and bool((labels != IGNORED).all())  # a GPU would have to wait for it
        for start in range(0, N, rows):
            chunk = slice(start, min(start + rows, N))
            counted = (labels[chunk] != IGNORED).unsqueeze(1)  # (R, 1)
            target = labels[chunk].clamp(min=0).unsqueeze(1)
            logits = hidden[chunk] @ weight.t()  # (R, V)
            probability = torch.softmax(logits, dim=-1, dtype=torch.float32)
            # log Z from the likeliest token, whose probability is 1/V at the least: no second pass of exponentials
            log_z = logits.amax(dim=-1, keepdim=True) - probability.amax(dim=-1, keepdim=True).log()  # (R, 1)
            here = (log_z - logits.gather(1, target)).where(counted, 0).sum()
            entropy += here
            total += here + z_loss * log_z.square().where(counted, 0).sum() if z_loss else here
            if grad_hidden is None and grad_weight is None:
                continue
            # d / d logits = softmax - one-hot of the target, + 2 z log Z softmax; 0 for ignored rows
            grad = probability
            if z_loss or not all_count:
                grad *= counted * (1 + 2 * z_loss * log_z)
            grad.scatter_add_(1, target, -counted.to(grad.dtype))
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[chunk])
            if grad_weight is not None:
                _add_product(grad_weight, grad.t(), hidden[chunk])
            del logits, probability, grad  # else they would stay until the next chunk's are made
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(entropy)
        return total, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        upstream, _ = grads
        # In place: a copy of the weight's gradient would be as large as the embedding.
        grad_hidden, grad_weight = (None if g is None else g.mul_(upstream.to(g.dtype)) for g in ctx.saved_tensors)
        return grad_hidden, grad_weight, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Total += a @ b, the sum in fp32 whatever the type of the factors."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:  # a CPU widens what it adds: in parts that the cache holds
        rows = PRODUCT_ROWS if total.device.type == "cpu" else len(total)
        for part, factor in zip(torch.split(total, rows), torch.split(a, rows), strict=True):
            part.add_(factor @ b)
