"""Keys and values of earlier tokens, in pages of 16 tokens that texts hold by number (Kwon et al. 2023, section 4.1).

A text's table says which page holds its positions 0 to 15, 16 to 31, ...; the pages need not be neighbours, and two
texts with the same beginning may hold the same pages. `neolm.kernels.attention` says how a page is laid out.

Shapes: N pages, H heads, D head size, P the head size padded to 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neolm.kernels.attention import BLOCK_SIZE, padded
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder

BlockTable = NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """New tokens of one text, which read what its pages hold of the tokens before them.

    `ids` are at positions `start`, `start` + 1, ...; the logits of the last `num_logits` of them are returned.
    """

    ids: Sequence[int]
    start: int
    block_table: BlockTable
    num_logits: int = 1


class KVCache:
    """The keys and values in `count` pages and a spare one, layer by layer.

    On a CPU as the kernels read them, (N, H, D, 16) and (N, H, 16, P); elsewhere token by token, (N, 16, H, D), so that
    pages side by side are keys side by side.
    """

    def __init__(self, config: DecoderConfig, count: int, dtype: torch.dtype, device: torch.device) -> None:
        H, D = config.num_heads, config.head_size
        self.dtype, self.head_size = dtype, D
        self.spare = count  # a page that is nobody's
        self._for_kernels = device.type == "cpu"
        shapes = [(count + 1, BLOCK_SIZE, H, D)] * 2
        if self._for_kernels:
            shapes = [(count + 1, H, D, BLOCK_SIZE), (count + 1, H, BLOCK_SIZE, padded(D))]
        # Zeros, not empty: a masked key weighs 0, and 0 x NaN is NaN. On a CPU memory comes when it is written to.
        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_layers)] for shape in shapes
        )

    @cached_property
    def addresses(self) -> NDArray[np.int64]:
        """Where each layer's keys and values begin, (L, 2)."""
        places = zip(self.keys, self.values, strict=True)
        return np.array([[keys.data_ptr(), values.data_ptr()] for keys, values in places], np.int64)

    def write(self, layer: int, page: Tensor, slot: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (tokens, H, D) into slots of pages, each (tokens)."""
        keys, values = keys.to(self.dtype), values.to(self.dtype)
        if self._for_kernels:
            self.keys[layer][page, :, :, slot] = keys
            self.values[layer][page, :, slot, : self.head_size] = values
        else:
            self.keys[layer][page, slot] = keys
            self.values[layer][page, slot] = values

    def read(self, layer: int, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values in pages (B, n) as (B, H, 16 n, D)."""
        keys, values = self.keys[layer][pages], self.values[layer][pages]
        if self._for_kernels:
            keys, values = keys.transpose(-1, -2), values[..., : self.head_size]  # (B, n, H, 16, D)
            return keys.transpose(1, 2).flatten(2, 3), values.transpose(1, 2).flatten(2, 3)
        return keys.flatten(1, 2).transpose(1, 2), values.flatten(1, 2).transpose(1, 2)


def block_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Memory of one page in all layers."""
    channels = config.num_heads * (config.head_size + padded(config.head_size))  # without padding but on a CPU
    return int(config.num_layers * channels * BLOCK_SIZE * dtype.itemsize)


def blocks_for(tokens: int) -> int:
    """Number of blocks that hold so many tokens."""
    return -(-tokens // BLOCK_SIZE)


def kv_cache_dtype(model: Decoder) -> torch.dtype:
    """fp32 for a model whose weights are; half as many bits for all others."""
    dtype = model.dtype
    if model.device.type == "cpu" and (model.quantized or dtype == torch.float16):
        return torch.bfloat16
    return torch.float32 if dtype == torch.float64 else dtype


class BatchCache:
    """Blocks for up to `capacity` tokens in each of `rows` texts; `lengths` are the tokens held."""

    def __init__(self, model: Decoder, rows: int, capacity: int, pages: KVCache | None = None) -> None:
        """Take new pages, or those of `pages`, which nobody else may use meanwhile; there must be enough of them."""
        self.lengths = [0] * rows
        self.capacity = capacity
        each = blocks_for(capacity)
        self.pages = pages or KVCache(model.config, rows * each, kv_cache_dtype(model), model.device)
        assert self.pages.spare >= rows * each
        self._tables: list[BlockTable] = [np.arange(row * each, (row + 1) * each) for row in range(rows)]

    def spans(self, rows: Sequence[Sequence[int]]) -> list[Span]:
        """What is to be read so that each row's ids are held; they are more than those held."""
        assert max(map(len, rows)) <= self.capacity, (list(map(len, rows)), self.capacity)
        return [
            Span(ids[held:], held, table) for ids, held, table in zip(rows, self.lengths, self._tables, strict=True)
        ]

    def drop(self, row: int) -> None:
        """Forget a row; the last row takes its number."""
        length, table = self.lengths.pop(), self._tables.pop()
        if row < len(self.lengths):
            self.lengths[row], self._tables[row] = length, table

    def rewind(self, row: int, length: int) -> None:
        """Take back the tokens of a row after its first `length`."""
        self.lengths[row] = min(length, self.lengths[row])
