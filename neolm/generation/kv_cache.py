"""KV cache in blocks of 16 tokens, addressed by block tables (PagedAttention, Kwon et al. 2023, section 4.1).

The block table of a sequence lists the blocks of its positions 0 to 15, 16 to 31, ...; the blocks need not be
neighbours, and sequences with the same prefix may share blocks. The layout of a block is in `neolm.kernels.attention`.

Shapes: N blocks, H heads, D head size, P the head size padded to 16.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neolm.core.errors import InputError
from neolm.core.progress import gibibytes
from neolm.kernels.attention import BLOCK_SIZE, padded
from neolm.models.config import DecoderConfig
from neolm.models.decoder import Decoder

BlockTable = NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """New tokens of one sequence, at positions `start`, `start` + 1, ...; earlier positions are in the KV cache.

    Logits are computed after the last `num_logits` of the tokens.
    """

    ids: Sequence[int]
    start: int
    block_table: BlockTable
    num_logits: int = 1


class KVCache:
    """Keys and values of all layers in `num_blocks` blocks, and one more block, with that number, for padding.

    On a CPU in the layout of the kernels, (N, H, D, 16) and (N, H, 16, P); elsewhere by token, (N, 16, H, D), so that
    the keys of neighbouring blocks are contiguous.
    """

    def __init__(self, config: DecoderConfig, num_blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        H, D = config.num_heads, config.head_size
        self.dtype, self.head_size, self.num_blocks = dtype, D, num_blocks
        self._kernel_layout = device.type == "cpu"
        shapes = [(num_blocks + 1, BLOCK_SIZE, H, D)] * 2
        if self._kernel_layout:
            shapes = [(num_blocks + 1, H, D, BLOCK_SIZE), (num_blocks + 1, H, BLOCK_SIZE, padded(D))]
        # Zeros, not empty: a masked key has weight 0, and 0 x NaN is NaN.
        try:
            self.keys, self.values = (
                [_zeros(shape, dtype, device) for _ in range(config.num_layers)] for shape in shapes
            )
        except (RuntimeError, OSError):  # torch has no type for memory that a GPU does not have
            needed = (num_blocks + 1) * block_bytes(config, dtype)
            raise InputError(
                f"a KV cache for {num_blocks * BLOCK_SIZE:,} tokens takes {gibibytes(needed)} of memory, which are not "
                f"free; the context of this model is {config.max_position_embeddings:,} tokens (config.json)"
            ) from None

    @cached_property
    def addresses(self) -> NDArray[np.int64]:
        """Addresses of each layer's keys and values, (L, 2)."""
        pairs = zip(self.keys, self.values, strict=True)
        return np.array([[keys.data_ptr(), values.data_ptr()] for keys, values in pairs], np.int64)

    def write(self, layer: int, block: Tensor, slot: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values (tokens, H, D) in slots of blocks, each (tokens)."""
        keys, values = keys.to(self.dtype), values.to(self.dtype)
        if self._kernel_layout:
            self.keys[layer][block, :, :, slot] = keys
            self.values[layer][block, :, slot, : self.head_size] = values
        else:
            self.keys[layer][block, slot] = keys
            self.values[layer][block, slot] = values

    def read(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of `blocks` (B, n) as (B, H, 16 n, D)."""
        keys, values = self.keys[layer][blocks], self.values[layer][blocks]
        if self._kernel_layout:
            keys, values = keys.transpose(-1, -2), values[..., : self.head_size]  # (B, n, H, 16, D)
            return keys.transpose(1, 2).flatten(2, 3), values.transpose(1, 2).flatten(2, 3)
        return keys.flatten(1, 2).transpose(1, 2), values.flatten(1, 2).transpose(1, 2)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU in pages that the system provides when they are first written.

    `torch.zeros` writes them at once: 0.5 to 2 seconds a GiB, measured.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # A mapping of its own: the heap can hand out pages that were used before, which must then be written.
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def block_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Memory of one block in all layers, at most: the padding of values exists only on a CPU."""
    channels = config.num_heads * (config.head_size + padded(config.head_size))
    return int(config.num_layers * channels * BLOCK_SIZE * dtype.itemsize)


def blocks_for(tokens: int) -> int:
    """Number of blocks that hold `tokens` tokens."""
    return -(-tokens // BLOCK_SIZE)


def fitting_context(config: DecoderConfig, dtype: torch.dtype, memory: float) -> tuple[int, str]:
    """Largest length of one text, in tokens, whose KV cache fits into `memory` bytes.

    It is the model's context, with an empty reason, or less, with a reason for the user. A config may claim any context
    where positions have no weights (rotary).
    """
    context, size = config.max_position_embeddings, block_bytes(config, dtype)
    if blocks_for(context) * size <= memory:
        return context, ""
    fitting = max(int(memory // size), 1) * BLOCK_SIZE
    return fitting, (
        f"texts are limited to {fitting:,} tokens of the context of {context:,} (config.json), whose KV cache takes "
        f"{gibibytes(blocks_for(context) * size)}; {gibibytes(memory)} of memory are left for it"
    )


def kv_cache_dtype(model: Decoder) -> torch.dtype:
    """The model's type; float32 for float64, and bfloat16 for quantised models on a CPU."""
    if model.device.type == "cpu" and model.quantized:
        return torch.bfloat16
    return torch.float32 if model.dtype == torch.float64 else model.dtype


class BatchCache:
    """KV cache of a batch: blocks for `capacity` tokens in each of `rows` rows; `lengths` counts the cached tokens."""

    def __init__(self, model: Decoder, rows: int, capacity: int, kv_cache: KVCache | None = None) -> None:
        """Allocate blocks, or use those of `kv_cache`, which must be enough and not in use."""
        self.lengths = [0] * rows
        self.capacity = capacity
        each = blocks_for(capacity)
        self.kv_cache = kv_cache or KVCache(model.config, rows * each, kv_cache_dtype(model), model.device)
        assert self.kv_cache.num_blocks >= rows * each
        self._block_tables: list[BlockTable] = [np.arange(row * each, (row + 1) * each) for row in range(rows)]

    def spans(self, rows: Sequence[Sequence[int]], num_logits: Sequence[int] | None = None) -> list[Span]:
        """Return the tokens of each row that are not cached; there is at least one in each. Default: one logit each."""
        assert max(map(len, rows)) <= self.capacity, (list(map(len, rows)), self.capacity)
        counts = num_logits or [1] * len(rows)
        cached = zip(rows, self.lengths, self._block_tables, counts, strict=True)
        return [Span(ids[length:], length, block_table, count) for ids, length, block_table, count in cached]

    def drop(self, row: int) -> None:
        """Remove a row; the last row takes its index."""
        length, block_table = self.lengths.pop(), self._block_tables.pop()
        if row < len(self.lengths):
            self.lengths[row], self._block_tables[row] = length, block_table

    def rewind(self, row: int, length: int) -> None:
        """Remove the tokens of a row after its first `length`."""
        self.lengths[row] = min(length, self.lengths[row])
