"""Causal attention, global or in a sliding window, through `scaled_dot_product_attention`.

Global: softmax(scale * Q K^T) V under a causal mask (Vaswani et al. 2017, equation 1). Local (GPT-Neo): query i sees
keys i-window+1 ... i. A local layer does work in proportion to its window: queries are cut into blocks of one window,
and a block meets only the keys of its own and of the block before.

On a GPU, where the model is compiled, a local layer is FlexAttention with a block mask instead (Dong et al. 2024).

One exception: bfloat16 on a CPU with few keys takes plain batched matrix products, which oneDNN runs three times as
fast, forwards and backwards, as the fused kernel (docs/log.md).

Shapes: B batch, T time (queries), S keys, H heads, D head size, C channels, W window.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from neolm.models.config import DecoderConfig

# Keys up to which bfloat16 attention on a CPU runs as plain products.
PRODUCT_KEYS = 512


class KeyValueCache(Protocol):
    """What attention asks of a cache; `neolm.generation.cache` has the real one."""

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store new keys and values (B, H, T, D) of `layer`.

        Returns the keys and values to attend to (B, H, S, D) and which of them each query may see (B or 1, 1, T, S);
        None instead of the mask: attend within the new keys, as without a cache, or, for a single query, to all keys.
        A cache may keep a wider type than the model computes in; attention then runs in the cache's type.
        """
        ...


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None, scale: float, dropout: float = 0.0) -> Tensor:
    """Causal attention of T queries to the T keys at the same positions, all (B, H, T, D); one query sees every key."""
    T = q.shape[2]
    if window is not None and T > window:
        if _flex_pays(q) and not dropout:
            return _attend_by_flex(q, k, v, window, scale)
        return _attend_in_window(q, k, v, window, scale, dropout)
    if T > 1 and _products_are_faster(q, T):
        causal = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
        return _attend_by_products(q, k, v, causal, scale, dropout)
    return F.scaled_dot_product_attention(q, k, v, is_causal=T > 1, scale=scale, dropout_p=dropout)


def _attend_where(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, dropout: float) -> Tensor:
    """Attention of T queries to S keys, (B, H, T, D) and (B, H, S, D), where `visible` (T, S) says so."""
    if _products_are_faster(q, k.shape[2]):
        return _attend_by_products(q, k, v, visible, scale, dropout)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=visible.expand(1, 1, *visible.shape), scale=scale, dropout_p=dropout
    )


def _products_are_faster(q: Tensor, keys: int) -> bool:
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and keys <= PRODUCT_KEYS


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, dropout: float) -> Tensor:
    """The same as plain products; all attention weights exist at once, hence for few keys only."""
    B, H, T, D = q.shape
    S = k.shape[2]
    q, k, v = q.reshape(B * H, T, D), k.reshape(B * H, S, D), v.reshape(B * H, S, D)
    hidden = torch.zeros(T, S, dtype=q.dtype, device=q.device).masked_fill(~visible, float("-inf"))
    weights = torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=scale).softmax(dim=-1)  # (B*H, T, S)
    if dropout:
        weights = F.dropout(weights, dropout)
    return torch.bmm(weights, v).view(B, H, T, D)


def _attend_in_window(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, dropout: float) -> Tensor:
    """Sliding-window attention in blocks of `window` queries against two blocks of keys."""
    B, H, T, D = q.shape
    W = window
    head = attend(q[:, :, :W], k[:, :, :W], v[:, :, :W], None, scale, dropout)  # has no block before it
    blocks = -(-T // W) - 1
    padding = (0, 0, 0, (blocks + 1) * W - T)
    queries = F.pad(q[:, :, W:], padding).reshape(B, H * blocks, W, D)
    # unfold makes overlapping pairs of blocks without a copy: (B, H, blocks, D, 2W)
    keys, values = (
        F.pad(x, padding).unfold(2, 2 * W, W).transpose(-1, -2).reshape(B, H * blocks, 2 * W, D) for x in (k, v)
    )
    i = torch.arange(W, device=q.device).unsqueeze(1)
    j = torch.arange(2 * W, device=q.device).unsqueeze(0)
    band = (j > i) & (j <= i + W)  # query W+i of the pair sees keys i+1 ... W+i  # (W, 2W)
    tail = _attend_where(queries, keys, values, band, scale, dropout)
    return torch.cat([head, tail.view(B, H, blocks * W, D)], dim=2)[:, :, :T]  # (B, H, T, D)


def _flex_pays(q: Tensor) -> bool:
    return q.is_cuda and torch.compiler.is_compiling()


def _attend_by_flex(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """Sliding-window attention in one kernel, which skips blocks that no query sees; worth it compiled only."""

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query - key < window)

    T = q.shape[2]
    mask = create_block_mask(visible, None, None, T, T, device=str(q.device))
    return flex_attention(q, k, v, block_mask=mask, scale=scale)


def causal_mask(attention_mask: Tensor, window: int | None) -> Tensor:
    """Which keys each query may see in a padded batch: not later, not padding, not beyond the window.

    `attention_mask` (B, T) is true or 1 for real tokens, false or 0 for padding on either side. Returns (B, 1, T, T).
    """
    T = attention_mask.shape[1]
    position = torch.arange(T, device=attention_mask.device)
    distance = position.unsqueeze(1) - position.unsqueeze(0)  # query minus key  # (T, T)
    visible = distance >= 0
    if window is not None:
        visible &= distance < window
    # A padding query sees itself, so that no row of the softmax is empty.
    return (visible & attention_mask.bool()[:, None, None, :]) | (distance == 0)


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
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.output_bias)

    def forward(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Attend within x (B, T, C), or to a cache; `angles` are the rotary tables of x's positions."""
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        dtype = v.dtype
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        dropout = self.dropout if self.training else 0.0
        visible = None if attention_mask is None else causal_mask(attention_mask, self.window)
        if cache is not None:
            k, v, visible = cache.update(self.layer, k, v)
            q = q.to(k.dtype)
        if visible is None:
            y = attend(q, k, v, self.window, self.scale, dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=self.scale, dropout_p=dropout)
        return self.output(y.transpose(1, 2).reshape(B, T, C).to(dtype))  # type: ignore[no-any-return]  # (B, T, C)
