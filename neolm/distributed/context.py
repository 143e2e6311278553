"""Context parallelism: the ranks of a group process different tokens of the same sequences.

A sequence of T tokens is cut into 2n chunks for n ranks, and rank r has chunks r and 2n - 1 - r, so that causal
attention costs every rank the same (Llama 3, Grattafiori et al. 2024, section 3.3.2).
In each layer the keys and values of all chunks are gathered, and every rank computes the attention of its own queries.
All other layers compute each token by itself.

Not supported: padded or packed sequences, and encoders, whose sequences are short.

Shapes: B batch, T time, n ranks, t = T / n tokens of a rank, c = T / 2n tokens of a chunk, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from neolm.core.errors import SettingError
from neolm.data.batch import Batch
from neolm.models.attention import Attention


class ContextRank:
    """This rank's tokens of each sequence."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group, self._count = group, dist.get_world_size(group)
        number = dist.get_rank(group)
        self._chunks = (number, 2 * self._count - 1 - number)
        # place of each chunk among the chunks of rank 0, those of rank 1, ...
        first, last = range(0, 2 * self._count, 2), range(2 * self._count - 1, 0, -2)
        self._order = torch.tensor([*first, *last])

    def cut(self, batch: Batch) -> Batch:
        """This rank's tokens of the sequences (B, T) of `batch`, with their `positions` (B, t).

        Raises:
            SettingError: the sequences are padded or packed, or cannot be cut into chunks of equal length.
        """
        B, T = batch["input_ids"].shape
        if "attention_mask" in batch or "positions" in batch:
            raise SettingError("parallel.context", "must be 1 here: padded and packed sequences cannot be divided")
        if T % (2 * self._count):
            raise SettingError("parallel.context", f"{2 * self._count} chunks do not divide {T} tokens")
        c = T // (2 * self._count)
        positions = torch.cat([torch.arange(chunk * c, (chunk + 1) * c) for chunk in self._chunks])
        tensors = {name: tensor[:, positions] for name, tensor in batch.tensors.items()}
        return Batch({**tensors, "positions": positions.expand(B, -1).contiguous()}, batch.examples)

    def divide(self, model: nn.Module) -> None:
        """Make the attention layers of `model` attend to the tokens of all ranks of the group."""
        attend = self._attention()
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = attend

    def _attention(self) -> Callable[..., Tensor]:
        """What replaces `neolm.models.attention.attend`; a function, because modules that have it are copied."""

        def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, dropout: float = 0.0) -> Tensor:
            keys, values = _Gather.apply(torch.stack((k, v)), self._group, self._order)  # type: ignore[no-untyped-call]  # each (B, H, T, D)
            c = q.shape[2] // 2
            attended = []
            for chunk, queries in zip(self._chunks, torch.split(q, c, dim=2), strict=True):
                begin, end = chunk * c, (chunk + 1) * c
                first = 0 if window is None else max(0, begin - window + 1)
                distance = torch.arange(begin, end, device=q.device)[:, None] - torch.arange(
                    first, end, device=q.device
                )
                visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
                seen = (keys[:, :, first:end], values[:, :, first:end])
                attended.append(
                    F.scaled_dot_product_attention(queries, *seen, attn_mask=visible, scale=scale, dropout_p=dropout)
                )
            return torch.cat(attended, dim=2)  # (B, H, t, D)

        return attend


class _Gather(torch.autograd.Function):
    """The chunks of all ranks in their order, (..., t, D) to (..., T, D); gradients are summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, order: Tensor) -> Tensor:
        count, (*outer, t, D) = len(order) // 2, x.shape
        ctx.group, ctx.order = group, order
        found = [torch.empty_like(x) for _ in range(count)]
        dist.all_gather(found, x, group=group)
        chunks = torch.stack(found, dim=-3).view(*outer, 2 * count, t // 2, D)
        return chunks.index_select(-3, order.to(x.device)).flatten(-3, -2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), count = grads, len(ctx.order) // 2
        *outer, T, D = grad.shape
        inverse = ctx.order.argsort().to(grad.device)
        chunks = grad.view(*outer, 2 * count, -1, D).index_select(-3, inverse)
        parts = [part.contiguous() for part in chunks.view(*outer, count, T // count, D).unbind(-3)]  # each (..., t, D)
        own = torch.empty_like(parts[0])
        dist.reduce_scatter(own, parts, group=ctx.group)
        return own, None, None
