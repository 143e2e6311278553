"""GELU (Hendrycks & Gimpel 2016) with faster gradients than torch's on a CPU.

In bfloat16 both forms are read from tables (`neolm.kernels.lookup`). In the other types the tanh form is computed with
its derivative in the forward pass:

    0.5 x (1 + tanh(u)) = x s,  s = sigmoid(2u),  2u = x p,  p = sqrt(8/pi) (1 + 0.044715 x^2)
    derivative:  s + x s (1 - s) (3 p - 2 sqrt(8/pi))

torch computes a hyperbolic tangent in the forward pass and another in the backward pass; each takes as long as a matrix
product. Here one sigmoid is used for both, and the derivative is saved instead of x.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from neolm.kernels.lookup import lookup, lookup_product

SLOPE = math.sqrt(8 / math.pi)
MAX_CHUNK_ELEMENTS = 2**18  # numbers at a time, so that the float32 intermediates stay in the cache


def gelu(x: Tensor) -> Tensor:
    """Elementwise GELU of `x` in its exact form."""
    return _TableGelu.apply(x, "none") if _has_table(x) else F.gelu(x)  # type: ignore[no-untyped-call]


def gelu_tanh(x: Tensor) -> Tensor:
    """Elementwise GELU of `x` in its tanh form."""
    if _has_table(x):
        return _TableGelu.apply(x, "tanh")  # type: ignore[no-any-return, no-untyped-call]
    if x.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Gelu.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    return F.gelu(x, approximate="tanh")


def _has_table(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.compiler.is_compiling()


@cache
def _tables(approximate: str) -> tuple[Tensor, Tensor]:
    """GELU of all bfloat16 numbers, in the order of their bits, and its derivatives in float32."""
    # The first call may be in inference mode, or in a recomputed block, which counts what autograd saves.
    with torch.inference_mode(False), torch.no_grad():
        x = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16).double()
        slopes = torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate=approximate)
        return F.gelu(x, approximate=approximate).to(torch.bfloat16), slopes.float()


class _TableGelu(torch.autograd.Function):
    """Of bfloat16 numbers on a CPU. Tensors of other classes, such as those of memory estimates, are left to torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, approximate: str) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        ctx.approximate = approximate
        return lookup(x, _tables(approximate)[0]) if type(x) is Tensor else F.gelu(x, approximate=approximate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,), approximate = ctx.saved_tensors, ctx.approximate
        if type(x) is Tensor and type(grad) is Tensor:
            return lookup_product(grad.contiguous(), x, _tables(approximate)[1]), None
        return torch.ops.aten.gelu_backward(grad, x, approximate=approximate), None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        result, derivative = torch.empty_like(x), torch.empty_like(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        slope = torch.full((), SLOPE, dtype=wide)
        work = torch.empty(3, min(MAX_CHUNK_ELEMENTS, x.numel()), dtype=wide)
        whole = () if isinstance(x, FakeTensor) else (x, result, derivative)  # the loop takes no memory to estimate
        chunks = zip(*(torch.split(t.view(-1), MAX_CHUNK_ELEMENTS) for t in whole), strict=True)
        for numbers, value, slopes in chunks:
            y, p, s = work[:, : len(numbers)]
            y.copy_(numbers)
            torch.addcmul(slope, y, y, value=SLOPE * 0.044715, out=p)
            torch.mul(y, p, out=s).sigmoid_()
            value.copy_(y.mul_(s))
            y.addcmul_(y, s, value=-1)  # x s (1 - s)
            slopes.copy_(s.addcmul_(y, p.mul_(3).sub_(2 * SLOPE)))
        ctx.save_for_backward(derivative)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensors
        return grad * derivative  # type: ignore[no-any-return]
