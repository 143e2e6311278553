"""Tensor parallelism: the ranks of a group share the matrices of each layer and the vocabulary (Shoeybi et al. 2019).

    attention   each rank has some heads: their rows of queries, keys and values, their columns of the output
    MLP         rows of the first matrix, columns of the second one
    vocabulary  rows of the embedding and of the head; see `neolm.models.cross_entropy`

So each attention and each MLP adds up its outputs over the ranks once in the forward pass, and the gradients of its
inputs once in the backward pass. All other parameters are on every rank of the group, and have equal gradients there,
because the activations outside of attention and MLP are the same.

A model is divided in place. Parameters keep their names and their identity, so that tied ones stay tied; each divided
one has its `Division`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neolm.models.attention import Attention
from neolm.models.decoder import LanguageModelHead
from neolm.models.encoder import SelfAttention
from neolm.models.encoder_heads import MaskedHead
from neolm.models.model import MLP
from neolm.training.division import Division, division_of, share, whole_size


class TensorGroup:
    """The ranks that share the matrices of a model, and what they exchange."""

    def __init__(self, group: dist.ProcessGroup, place: int, count: int) -> None:
        self.group, self.place, self.count = group, place, count

    def __deepcopy__(self, memo: Any) -> TensorGroup:
        return self  # a copy of a model exchanges with the same ranks

    def sum(self, x: Tensor) -> Tensor:
        """Sum of the ranks' `x`, in its memory; the gradient of the sum is that of each `x`."""
        return _Sum.apply(x, self.group)  # type: ignore[no-any-return, no-untyped-call]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.mark_dirty(x)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _ColumnProduct(torch.autograd.Function):
    """Some outputs of a linear layer, of an `x` that is the same on all ranks.

    The gradients of `x` are added up over the ranks while those of the weight are computed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, group: dist.ProcessGroup) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group = group
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = work = None
        rows = grad.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            grad_x = torch.matmul(grad, weight)
            work = dist.all_reduce(grad_x, group=ctx.group, async_op=True)
        if ctx.needs_input_grad[1]:
            grad_weight = rows.t() @ x.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            grad_bias = rows.sum(dim=0)
        if work is not None:
            work.wait()
        return grad_x, grad_weight, grad_bias, None


class ColumnParallel(nn.Linear):
    """A linear layer that computes some of its outputs, from the whole input."""

    not_compiled = ("forward",)  # torch.compile would have to know how ranks communicate
    ranks: TensorGroup

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the outputs of this rank."""
        return _ColumnProduct.apply(x, self.weight, self.bias, self.ranks.group)  # type: ignore[no-any-return, no-untyped-call]


class RowParallel(nn.Linear):
    """A linear layer that reads some of its inputs; its outputs are summed over the ranks, and then get the bias."""

    not_compiled = ("forward",)
    ranks: TensorGroup

    def forward(self, x: Tensor) -> Tensor:
        """The inputs of this rank to (..., C)."""
        y = self.ranks.sum(F.linear(x, self.weight))
        return y if self.bias is None else y + self.bias


class VocabularyEmbedding(nn.Embedding):
    """An embedding that has the rows of some tokens; those of the other tokens come from the other ranks."""

    ranks: TensorGroup
    first: int

    def forward(self, input_ids: Tensor) -> Tensor:
        """(...) to (..., C)."""
        own = input_ids - self.first
        outside = (own < 0) | (own >= len(self.weight))
        rows = super().forward(own.masked_fill(outside, 0)).masked_fill(outside.unsqueeze(-1), 0)
        return self.ranks.sum(rows)


class Vocabulary:
    """The `VocabularyPart` of a rank."""

    def __init__(self, ranks: TensorGroup, size: int) -> None:
        self._ranks = ranks
        parts = [share(size, place, ranks.count) for place in range(ranks.count)]
        self._sizes = [end - first for first, end in parts]
        self.first, self.largest = parts[ranks.place][0], max(self._sizes)

    def __deepcopy__(self, memo: Any) -> Vocabulary:
        return self

    def gather(self, x: Tensor) -> Tensor:
        """See `VocabularyPart`."""
        parts = [torch.empty_like(x) for _ in self._sizes]
        dist.all_gather(parts, x, group=self._ranks.group)
        return torch.stack(parts)

    def add(self, x: Tensor) -> None:
        """See `VocabularyPart`."""
        dist.all_reduce(x, group=self._ranks.group)

    def join(self, logits: Tensor) -> Tensor:
        """See `VocabularyPart`."""
        assert not logits.requires_grad, "losses of a divided vocabulary are computed by linear_cross_entropy"
        padded = F.pad(logits, (0, self.largest - logits.shape[-1]))
        return torch.cat([part[..., :n] for part, n in zip(self.gather(padded), self._sizes, strict=True)], dim=-1)


def divide(model: nn.Module, ranks: TensorGroup) -> None:
    """Leave to `model` the part of this rank. All ranks have the same weights before."""
    for module in list(model.modules()):
        if isinstance(module, (Attention, SelfAttention)):
            assert module.num_heads % ranks.count == 0
            module.num_heads //= ranks.count
            _divide(module.qkv, ranks, ColumnParallel, blocks=3)
            _divide(module.output, ranks, RowParallel)
            if module.dropout:
                name = "mix" if isinstance(module, Attention) else "attend"
                setattr(module, name, partial(_with_own_numbers, ranks.place, getattr(module, name)))
                module.not_compiled = (name,)
        elif isinstance(module, MLP):
            _divide(module.expand, ranks, ColumnParallel)
            _divide(module.contract, ranks, RowParallel)
        elif isinstance(module, (LanguageModelHead, MaskedHead)):
            module.vocabulary = Vocabulary(ranks, whole_size(module.weight)[0])
            _divide(module, ranks)
    embedding = model.get_submodule("embedding")
    _divide(embedding, ranks, VocabularyEmbedding)
    assert isinstance(embedding, VocabularyEmbedding)
    embedding.first = share(whole_size(embedding.weight)[0], ranks.place, ranks.count)[0]


def _divide(module: nn.Module, ranks: TensorGroup, kind: type[nn.Module] | None = None, blocks: int = 1) -> None:
    """Leave to the parameters of `module`, in each of their blocks, the part of this rank, and make it a `kind`."""
    for name, parameter in module.named_parameters(recurse=False):
        whole = kind is RowParallel and name == "bias"
        if whole or division_of(parameter) is not None:  # a tied one is divided already
            continue
        dim = 1 if kind is RowParallel else 0
        Division.of(parameter.shape, dim, blocks, ranks.place, ranks.count, ranks.group).divide(parameter)
    if kind is not None:
        module.__class__, module.ranks = kind, ranks  # type: ignore[assignment]


def _with_own_numbers(place: int, attend: Callable[..., Tensor], x: Tensor, *rest: Any) -> Tensor:
    """`attend`, whose dropout draws other numbers than on the other ranks: they have other heads.

    The generator of what all ranks draw alike goes on as if a single number had been drawn.
    """
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        torch.manual_seed(seed + place)
        return attend(x, *rest)
