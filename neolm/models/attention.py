"""Causal attention, global or in a sliding window, through `scaled_dot_product_attention`.

Global: softmax(scale * Q K^T) V under a causal mask (Vaswani et al. 2017, equation 1). Local (GPT-Neo): query i attends
to keys i-window+1 ... i, so the work is proportional to the window. Local layers are computed by `block_attention`, as
are all layers on a CPU where it is faster, or by FlexAttention with a block mask (Dong et al. 2024) in models compiled
for a GPU.

Shapes: B batch, T time (queries), S keys, H heads, D head size, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from neolm.models.block_attention import block_attention, products_are_faster
from neolm.models.config import DecoderConfig

Masks = Mapping[int | None, Tensor]
"""Window of a layer (None: global) to its mask (B, 1, T, T). A window without a mask: causal, without padding."""


class KeyValueCache(Protocol):
    """Interface of a cache to attention; `neolm.generation.model_runner.CacheView` implements it."""

    def update(
        self, layer: int, keys: Tensor, values: Tensor, window: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store new keys and values (B, H, T, D) of `layer`, whose queries attend to `window` tokens (None: all).

        Returns the keys and values to attend to (B, H, S, D) and the mask of those that each query attends to (B or 1,
        1, T, S). A mask of None means attention within the new keys, as without a cache; a single query then attends to
        all keys. The cache's type may be wider than the model's; attention is then computed in it.
        """
        ...


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, dropout: float = 0.0) -> Tensor:
    """Causal attention of T queries to the T keys at the same positions, all (B, H, T, D); one query sees all keys."""
    T = q.shape[2]
    if window is not None and window >= T:
        window = None  # it masks nothing
    if q.is_meta:
        return fused_attention(q, k, v, T > 1, scale, dropout)
    if window is not None and _flex_pays(q) and not dropout:
        return _attend_by_flex(q, k, v, window, scale)
    if window is not None or (T > 1 and products_are_faster(q, dropout)):
        return block_attention(q, k, v, window, scale, dropout)
    return F.scaled_dot_product_attention(q, k, v, is_causal=T > 1, scale=scale, dropout_p=dropout)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, dropout: float) -> Tensor:
    """Attention in one fused kernel: what `meta` tensors, which stand for a GPU in estimates of memory, count as."""
    fused = torch.ops.aten._scaled_dot_product_efficient_attention
    return fused(q, k, v, None, q.requires_grad, dropout, causal, scale=scale)[0]  # type: ignore[no-any-return]


def _flex_pays(q: Tensor) -> bool:
    return q.is_cuda and torch.compiler.is_compiling()


def _attend_by_flex(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """Sliding-window attention in one kernel, which skips blocks that are masked as a whole; slow unless compiled."""

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    T = q.shape[2]
    mask = create_block_mask(visible, None, None, T, T, device=str(q.device))
    return flex_attention(q, k, v, block_mask=mask, scale=scale)


def causal_mask(attention_mask: Tensor, window: int | None) -> Tensor:
    """Mask of a batch, (B, 1, T, T): true where the query attends to the key.

    `attention_mask` (B, T) is true or 1 for real tokens, false or 0 for padding on either side. Where several texts are
    packed into a sequence, it has another number for each of them, and tokens attend to those of their own text.
    """
    T = attention_mask.shape[1]
    position = torch.arange(T, device=attention_mask.device)
    distance = position.unsqueeze(1) - position.unsqueeze(0)  # query minus key  # (T, T)
    visible = distance >= 0
    if window is not None:
        visible &= distance < window
    # A padding query attends to padding, itself included, so that no row of the softmax is empty.
    return visible & (attention_mask[:, None, :, None] == attention_mask[:, None, None, :])


def rotary_table(positions: Tensor, size: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles of positions (T) or (B, T), computed in fp32: (T, size) or (B, 1, T, size).

    Channel pair i turns by position x base^(-2i/size) (Su et al. 2021, equation 15).
    """
    index = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32)
    angles = positions.unsqueeze(-1).float() * (1.0 / base ** (index / size))
    angles = torch.cat([angles, angles], dim=-1)
    if angles.dim() == 3:
        angles = angles.unsqueeze(1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the first channels of each head of x (B, H, T, D), as many as the tables have; halves pair up (GPT-NeoX)."""
    size = cosine.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosine + torch.cat([-second, first], dim=-1) * sine
    return torch.cat([turned, rest], dim=-1)


class Attention(nn.Module):
    """Multi-head causal self-attention of one block."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, config.num_heads
        self.window, self.scale = config.window(layer), config.scale(layer)
        self.dropout = config.attention_dropout
        self.attend: Callable[..., Tensor] = attend
        """Attention without a mask; replaced where the tokens of a sequence are divided over processes."""
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.output_bias)

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor] | None, masks: Masks, cache: KeyValueCache | None
    ) -> Tensor:
        """Attention within x (B, T, C), or to a cache; `angles` are the rotary tables of x's positions."""
        B, T, _ = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        dtype = v.dtype
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        mask = masks.get(self.window)
        if cache is not None:
            k, v, mask = cache.update(self.layer, k, v, self.window)
            q = q.to(k.dtype)
        y = self.mix(q, k, v, mask)
        return self.output(y.transpose(1, 2).reshape(B, T, -1).to(dtype))  # type: ignore[no-any-return]  # (B, T, C)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention with this layer's window, scale and dropout, all (B, H, T, D); `mask` is one of `Masks`."""
        dropout = self.dropout if self.training else 0.0
        if mask is None:
            return self.attend(q, k, v, self.window, self.scale, dropout)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale, dropout_p=dropout)
