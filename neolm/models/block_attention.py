"""Attention as batched matrix products, one block of queries at a time.

A block of queries is multiplied with the keys that at least one of its queries attends to: in causal attention those up
to the end of the block, in a sliding window those from the window's start. So few masked scores are computed, and the
work of a local layer is proportional to its window.

Shapes: B batch, H heads, N = B x H, T time, D head size, b queries of a block, S keys of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neolm.models.dropout import draw_mask, masked

# Up to this number of keys, attention weights are saved for the backward pass; beyond it, they are recomputed.
MAX_SAVED_KEYS = 1024


def block_attention(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, dropout: float = 0.0) -> Tensor:
    """softmax(scale * Q K^T) V, all (B, H, T, D); query i attends to keys 0 ... i, or to the last `window` of them."""
    return _attention(q, k, v, window, None, scale, dropout)


def full_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout: float = 0.0) -> Tensor:
    """softmax(scale * Q K^T) V, all (B, H, T, D), over all keys, or those where `mask` (B, 1, 1, T) is true."""
    B, H, T, _ = q.shape
    bias = torch.zeros(1, 1, 1, dtype=q.dtype, device=q.device)
    if mask is not None:
        bias = bias.expand(B, 1, T).masked_fill(~mask.view(B, 1, T), float("-inf")).repeat_interleave(H, dim=0)
    return _attention(q, k, v, None, bias, scale, dropout)


def products_are_faster(q: Tensor, dropout: float) -> bool:
    """Whether batched products are faster than torch's `scaled_dot_product_attention`: on a CPU (docs/log.md).

    Its fused kernel does not use the matrix units in bfloat16 there, and has no dropout.
    """
    return q.device.type == "cpu" and (q.dtype == torch.bfloat16 or (dropout > 0 and q.dtype == torch.float32))


def _attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, bias: Tensor | None, scale: float, dropout: float
) -> Tensor:
    B, H, T, D = q.shape
    q, k, v = (x.reshape(B * H, T, D) for x in (q, k, v))
    return _BlockAttention.apply(q, k, v, window, bias, scale, dropout).view(B, H, T, D)  # type: ignore[no-any-return, no-untyped-call]


class _BlockAttention(torch.autograd.Function):
    """Causal, in a window if there is one; or with a bias (N or 1, 1, T) of the scores, and not causal."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        window: int | None,
        bias: Tensor | None,
        scale: float,
        dropout: float,
    ) -> Tensor:
        output = torch.empty_like(q)
        keep = any(ctx.needs_input_grad) and min(q.shape[1], window or q.shape[1]) <= MAX_SAVED_KEYS
        weights, dropped = [], []
        for queries, keys in blocks(q.shape[1], window, bias is None):
            weight = _weights(q, k, queries, keys, window, bias, scale)
            if keep:
                weights.append(weight)
            if dropout:
                dropped.append(draw_mask(weight, dropout))
                weight = masked(weight, dropped[-1], dropout)
            output[:, queries] = torch.bmm(weight, v[:, keys])
        ctx.save_for_backward(q, k, v, *weights, *dropped)
        ctx.bias = bias
        ctx.kept, ctx.window, ctx.scale, ctx.dropout = len(weights), window, scale, dropout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *rest = ctx.saved_tensors
        weights, dropped = rest[: ctx.kept], rest[ctx.kept :]
        grad_q = torch.empty_like(q)
        parts = list(blocks(q.shape[1], ctx.window, ctx.bias is None))
        single = len(parts) == 1
        if single:
            grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
        else:  # several blocks add to a key, so the sums are in float32
            dtype = torch.promote_types(q.dtype, torch.float32)
            grad_k, grad_v = (torch.zeros_like(x, dtype=dtype) for x in (k, v))
        for number, (queries, keys) in enumerate(parts):
            weight = weights[number] if weights else _weights(q, k, queries, keys, ctx.window, ctx.bias, ctx.scale)
            grad_weight = torch.bmm(grad[:, queries], v[:, keys].transpose(1, 2))  # (N, b, S)
            seen = weight
            if dropped:
                seen = masked(weight, dropped[number], ctx.dropout)
                grad_weight = masked(grad_weight, dropped[number], ctx.dropout, in_place=True)
            grad_score = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            torch.baddbmm(q[:, queries], grad_score, k[:, keys], beta=0, alpha=ctx.scale, out=grad_q[:, queries])
            if single:
                torch.bmm(seen.transpose(1, 2), grad, out=grad_v)
                torch.baddbmm(k, grad_score.transpose(1, 2), q, beta=0, alpha=ctx.scale, out=grad_k)
            else:
                grad_v[:, keys] += torch.bmm(seen.transpose(1, 2), grad[:, queries])
                grad_k[:, keys] += torch.bmm(grad_score.transpose(1, 2), q[:, queries])
        if not single:
            grad_k *= ctx.scale
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None, None, None


def blocks(T: int, window: int | None, causal: bool = True) -> Iterator[tuple[slice, slice]]:
    """Queries and keys of each block; the first key is a multiple of 64. Not causal: all keys."""
    seen = min(T, window or T)
    size = min(max(128, seen // 8), 512)  # few masked scores, large products, memory linear in T
    for start in range(0, T, size):
        end = min(start + size, T)
        yield slice(start, end), slice(max(0, start + 1 - seen) // 64 * 64, end) if causal else slice(0, T)


def _weights(
    q: Tensor, k: Tensor, queries: slice, keys: slice, window: int | None, bias: Tensor | None, scale: float
) -> Tensor:
    """Attention weights of a block, (N, b, S); 0 where they are masked."""
    if bias is not None:
        return torch.baddbmm(bias, q[:, queries], k[:, keys].transpose(1, 2), alpha=scale).softmax(dim=-1)
    query = torch.arange(queries.start, queries.stop, device=q.device).unsqueeze(1)
    key = torch.arange(keys.start, keys.stop, device=q.device)
    hidden = key > query
    if window is not None:
        hidden |= key <= query - window
    bias = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill_(hidden, float("-inf"))
    return torch.baddbmm(bias, q[:, queries], k[:, keys].transpose(1, 2), alpha=scale).softmax(dim=-1)
