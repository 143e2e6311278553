"""Causal attention as plain products of matrices, a block of queries at a time.

A block of queries meets only the keys that one of them may see: those up to its own end, in a sliding window those from
the window's start on. So the half of the scores that a causal mask would throw away is hardly computed, and a local
layer does work in proportion to its window. In bfloat16 on a CPU this is faster than the fused kernel, which multiplies
there without the matrix units (docs/log.md).

Shapes: N batch times heads, T time, D head size, b a block's queries, S the keys that it meets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Up to so many keys a query, the attention weights are kept for the backward pass; beyond, they are computed again.
KEPT_KEYS = 1024


def block_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, dropout: float = 0.0) -> Tensor:
    """softmax(scale * Q K^T) V, all (B, H, T, D); query i sees keys 0 ... i, or the last `window` of them."""
    B, H, T, D = q.shape
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    return _BlockAttention.apply(q, k, v, window, scale, dropout).view(B, H, T, D)  # type: ignore[no-any-return, no-untyped-call]


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, dropout: float) -> Tensor:
        output = torch.empty_like(q)
        keep = any(ctx.needs_input_grad) and keeps_weights(q.shape[1], window)
        weights, dropped = [], []
        for queries, keys in blocks(q.shape[1], window):
            weight = _weights(q, k, queries, keys, window, scale)
            if keep:
                weights.append(weight)
            if dropout:
                dropped.append(torch.empty_like(weight).bernoulli_(1 - dropout).div_(1 - dropout))
                weight = weight * dropped[-1]
            output[:, queries] = torch.bmm(weight, v[:, keys])
        ctx.save_for_backward(q, k, v, *weights, *dropped)
        ctx.kept, ctx.window, ctx.scale = len(weights), window, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *rest = ctx.saved_tensors
        weights, dropped = rest[: ctx.kept], rest[ctx.kept :]
        grad_q = torch.empty_like(q)
        # many blocks add to a key: sums in fp32
        grad_k, grad_v = (torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (k, v))
        for number, (queries, keys) in enumerate(blocks(q.shape[1], ctx.window)):
            weight = weights[number] if weights else _weights(q, k, queries, keys, ctx.window, ctx.scale)
            grad_weight = torch.bmm(grad[:, queries], v[:, keys].transpose(1, 2))  # (N, b, S)
            seen = weight
            if dropped:
                seen = weight * dropped[number]
                grad_weight *= dropped[number]
            grad_v[:, keys] += torch.bmm(seen.transpose(1, 2), grad[:, queries])
            grad_score = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            grad_q[:, queries] = torch.bmm(grad_score, k[:, keys])
            grad_k[:, keys] += torch.bmm(grad_score.transpose(1, 2), q[:, queries])
        grad_q *= ctx.scale
        grad_k *= ctx.scale
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None, None


def keeps_weights(T: int, window: int | None) -> bool:
    """Whether the attention weights stay in memory until the backward pass."""
    return min(T, window or T) <= KEPT_KEYS


def blocks(T: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """The queries of each block, and the keys that it meets, from a multiple of 64 on."""
    seen = min(T, window or T)
    size = min(max(128, seen // 8), 512)  # little is computed in vain, products are large, memory is linear in T
    for start in range(0, T, size):
        end = min(start + size, T)
        yield slice(start, end), slice(max(0, start + 1 - seen) // 64 * 64, end)


def _weights(q: Tensor, k: Tensor, queries: slice, keys: slice, window: int | None, scale: float) -> Tensor:
    """The attention weights of a block, (N, b, S); 0 where a query may not see."""
    query = torch.arange(queries.start, queries.stop, device=q.device).unsqueeze(1)
    key = torch.arange(keys.start, keys.stop, device=q.device)
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    bias = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill_(hidden, float("-inf"))
    return torch.baddbmm(bias, q[:, queries], k[:, keys].transpose(1, 2), alpha=scale).softmax(dim=-1)
