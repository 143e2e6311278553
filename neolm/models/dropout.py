"""Dropout (Srivastava et al. 2014) that is faster than torch's on a CPU, in float32 and bfloat16.

torch draws the numbers of a mask one after the other, which takes as long as a matrix product. Here they are functions
of the element's place and a key (`neolm.kernels.dropout`), and the mask is computed again for the gradient. The key is
one draw from torch's generator. So a seed or a restored state of it repeats the masks, as activation checkpointing
needs. Elsewhere, and in other types, the mask is torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from neolm.kernels.dropout import drop


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`x` with the share `p` of its elements 0 and the others divided by 1 - p; `x` itself if not `training`."""
    if p == 0 or not training:
        return x
    if not _has_kernel(x, p):
        return F.dropout(x, p)
    return _Dropout.apply(x, draw_mask(x, p), p)  # type: ignore[no-any-return, no-untyped-call]


def draw_mask(x: Tensor, p: float) -> Tensor:
    """A mask for `masked` of tensors such as `x`: the key of the kernel, or the factor of each element."""
    if _has_kernel(x, p):
        return torch.empty((), dtype=torch.int64, device="cpu").random_()
    mask = torch.empty_like(x).bernoulli_(1 - p)
    return mask.div_(1 - p) if p < 1 else mask


def masked(x: Tensor, mask: Tensor, p: float, in_place: bool = False) -> Tensor:
    """`x` times the mask that `draw_mask` drew with `p`; autograd does not see it."""
    if mask.dtype != torch.int64:
        return x.mul_(mask) if in_place else x * mask
    x = x.contiguous()
    result = x if in_place else torch.empty_like(x)
    if not isinstance(x, FakeTensor):
        drop(x, mask, p, result)
    return result


def _has_kernel(x: Tensor, p: float) -> bool:
    """Whether the kernel computes it; fake tensors, those of memory estimates, take the same memory."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not 0 < p < 1:
        return False
    return x.dtype in (torch.float32, torch.bfloat16) and (type(x) is Tensor or isinstance(x, FakeTensor))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, p: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.p = p
        return masked(x, mask, p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return masked(grad, mask, ctx.p), None, None
        return _Dropout.apply(grad, mask, ctx.p), None, None  # type: ignore[no-untyped-call]
