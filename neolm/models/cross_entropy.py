"""Output layer and cross-entropy in one function, which never holds the logits of the whole batch.

The rows are processed in chunks. The gradients are computed in the forward pass, while a chunk's logits exist.

Processes may divide the vocabulary (Shoeybi et al. 2019, section 3): each has some rows of the weight, and for each
row of hidden states they exchange three numbers.

Shapes: N rows (B x T), R rows of a chunk, C channels, V vocabulary or the part of it in this process.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

IGNORED = -100  # a label that does not count, as in `torch.nn.functional.cross_entropy`

# A chunk has 8 MiB of float32 logits, which stay in a CPU's cache, but at least MIN_CHUNK_ROWS rows: every chunk reads
# the whole weight, so that products of fewer rows would be bound by memory.
CHUNK_ELEMENTS = 2**21
MIN_CHUNK_ROWS = 512
MAX_PRODUCT_ROWS = 2048


class VocabularyPart(Protocol):
    """Part of a vocabulary in this process; `neolm.distributed.tensor_parallel` has the only one."""

    first: int
    """The first token of the part."""
    largest: int
    """Number of tokens in the largest part."""

    def gather(self, x: Tensor) -> Tensor:
        """The tensors (...) of all processes, which have the same shape, as (parts, ...); without a gradient."""
        ...

    def add(self, x: Tensor) -> None:
        """Add the tensors of the other processes to `x`; without a gradient."""
        ...

    def join(self, logits: Tensor) -> Tensor:
        """The logits of the whole vocabulary, from those (..., V) of each part; without a gradient."""
        ...


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    z_loss: float = 0.0,
    bias: Tensor | None = None,
    vocabulary: VocabularyPart | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows of the cross-entropy of softmax(hidden @ weight.T + bias) at `labels`, with and without z-loss.

    Args:
        hidden: (N, C), any floating type; the products are computed in it, softmax and sums in float32.
        weight: (V, C), of the same type.
        labels: (N) int64 in 0 ... V-1, or `IGNORED`.
        z_loss: Weight of log^2 of the softmax's denominator.
        bias: (V), of the same type.
        vocabulary: The part of the vocabulary that `weight` and `bias` have; None: all of it. `hidden` and `labels` are
            the same in all processes, and so is the result.

    Returns:
        Three float32 scalars: cross-entropy plus z-loss, which is differentiable; the cross-entropy; and the number of
        rows whose label is the likeliest (or as likely as another).
    """
    return _LinearCrossEntropy.apply(hidden, weight, labels, z_loss, bias, vocabulary)  # type: ignore[no-any-return, no-untyped-call]


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        z_loss: float,
        bias: Tensor | None,
        vocabulary: VocabularyPart | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        N, V = len(labels), len(weight)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        entropy, correct = torch.zeros_like(total), torch.zeros_like(total)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros(V, dtype=torch.float32, device=weight.device) if ctx.needs_input_grad[4] else None
        rows = max(MIN_CHUNK_ROWS, CHUNK_ELEMENTS // (V if vocabulary is None else vocabulary.largest))
        # Checked on a CPU only: on a GPU the check would wait for the device.
        all_count = labels.device.type == "cpu" and bool((labels != IGNORED).all())
        for start in range(0, N, rows):
            chunk = slice(start, min(start + rows, N))
            counted = (labels[chunk] != IGNORED).unsqueeze(1)  # (R, 1)
            target = labels[chunk].unsqueeze(1) - (0 if vocabulary is None else vocabulary.first)
            one_hot = counted if vocabulary is None else (target >= 0) & (target < V) & counted
            target = target.clamp(0, V - 1)
            rows_of = hidden[chunk]
            logits = rows_of @ weight.t() if bias is None else torch.addmm(bias, rows_of, weight.t())  # (R, V)
            probability = torch.softmax(logits, dim=-1, dtype=torch.float32)
            # log Z from the likeliest token, whose probability is at least 1/V: no second pass of exponentials
            largest, chosen = logits.amax(dim=-1, keepdim=True), logits.gather(1, target)
            log_z = largest - probability.amax(dim=-1, keepdim=True).log()  # (R, 1)
            if vocabulary is not None:
                of_part = log_z
                log_z, largest, chosen = _over_parts(vocabulary, log_z, largest, chosen.where(one_hot, 0))
                probability *= (of_part - log_z).exp()
            here = (log_z - chosen).where(counted, 0).sum()
            correct += ((chosen >= largest) & counted).sum()
            entropy += here
            total += here + z_loss * log_z.square().where(counted, 0).sum() if z_loss else here
            if grad_hidden is None and grad_weight is None:
                continue
            # d / d logits = softmax - one-hot of the target, + 2 z log Z softmax; 0 for ignored rows
            grad = probability
            if z_loss or not all_count:
                grad *= counted * (1 + 2 * z_loss * log_z)
            grad.scatter_add_(1, target, -one_hot.to(grad.dtype))
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[chunk])
            if grad_weight is not None:
                _add_product(grad_weight, grad.t(), hidden[chunk])
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0, dtype=torch.float32)
            del logits, probability, grad  # otherwise they are alive while the next chunk's are computed
        if grad_hidden is not None and vocabulary is not None:
            vocabulary.add(grad_hidden)
        if grad_weight is not None and weight.dtype != torch.float16:
            grad_weight = grad_weight.to(weight.dtype)  # float16 could overflow here: the sum is not scaled yet
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(entropy, correct)
        return total, entropy, correct

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        upstream = grads[0]
        # In place: a copy of the weight's gradient would be as large as the embedding.
        grad_hidden, grad_weight, grad_bias = (
            None if g is None else g.mul_(upstream.to(g.dtype)) for g in ctx.saved_tensors
        )
        grad_weight, grad_bias = (None if g is None else g.to(ctx.weight_dtype) for g in (grad_weight, grad_bias))
        return grad_hidden, grad_weight, None, None, grad_bias, None


def _over_parts(
    vocabulary: VocabularyPart, log_z: Tensor, largest: Tensor, chosen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the whole vocabulary: log Z, the largest logit, and the one of the target, which is 0 in the other parts."""
    found = vocabulary.gather(torch.stack([log_z, largest.float(), chosen.float()]))  # (parts, 3, R, 1)
    return found[:, 0].logsumexp(0), found[:, 1].amax(0), found[:, 2].sum(0)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total`, with the sum in float32 whatever the type of the factors."""
    if a.dtype == torch.float16 and not a.is_cuda:
        a, b = a.float(), b.float()
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.dtype == torch.float16:  # the product alone can overflow float16
        total.add_(torch.mm(a, b, out_dtype=torch.float32))
    else:  # a CPU widens what it adds, so it adds in parts that fit its cache
        rows = MAX_PRODUCT_ROWS if total.device.type == "cpu" else len(total)
        for part, factor in zip(torch.split(total, rows), torch.split(a, rows), strict=True):
            part.add_(factor @ b)
