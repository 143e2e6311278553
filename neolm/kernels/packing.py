"""Weights of 8 and 4 bits: rounded to the nearest of 256 or 16 levels in groups, laid out for the kernels.

A weight matrix (N outputs, K inputs) is cut into groups of 64 inputs of one output; each has a scale, fp16, and its
weights are scale x (q - 2^(bits-1)) with whole q from 0 to 2^bits - 1. With the scale that is 8.25 and 4.25 bits a
weight. Outputs are padded to blocks of 16, inputs to groups; padding weighs nothing. What it leaves out: choosing q by
the model's activations (GPTQ, AWQ).

Layout: `values` (N/16, K/64, pieces, 16, 4) bytes; a piece is 64 bytes that meet in one register: for each of 16
outputs four neighbouring inputs. With 4 bits a byte's lower half is of the first four of eight inputs, its upper half
of the last four. `scales` (N/16, K/64, 16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from neolm.kernels.compiled import compiled
from neolm.kernels.mathematics import FAST, from_half, to_bf16
from neolm.kernels.team import team

GROUP = 64  # inputs that share a scale
BLOCK = 16  # outputs side by side
_ROWS_AT_ONCE = 4096  # widened to fp32 together

# Smaller scales than the largest weight asks for: they clip it and are finer for all others. Tried in this order.
_SHRINKING = np.array([1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76, 0.72, 0.68], np.float32)
_WHOLE = np.ones(1, np.float32)


@dataclass(frozen=True)
class Packed:
    """A weight matrix of `outputs` x `inputs` in 8 or 4 bits."""

    bits: int
    outputs: int
    inputs: int
    values: Tensor  # uint8
    scales: Tensor  # fp16


def packed_shapes(bits: int, outputs: int, inputs: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of `values` and `scales`."""
    blocks, groups = -(-outputs // BLOCK), -(-inputs // GROUP)
    return (blocks, groups, GROUP * bits // 32, BLOCK, 4), (blocks, groups, BLOCK)


def pack(weight: Tensor, bits: int) -> Packed:
    """Round a matrix (N, K) to `bits`; each group's scale is the one, of a few, with the least squared error."""
    outputs, inputs = weight.shape
    value_shape, scale_shape = packed_shapes(bits, outputs, inputs)
    values = torch.zeros(value_shape, dtype=torch.uint8)
    scales = torch.empty(scale_shape, dtype=torch.float16)
    padded = scale_shape[1] * GROUP
    for start in range(0, outputs, _ROWS_AT_ONCE):
        rows = weight[start : start + _ROWS_AT_ONCE]
        wide = torch.zeros(-(-rows.shape[0] // BLOCK) * BLOCK, padded)
        wide[: rows.shape[0], :inputs] = rows
        first, end = start // BLOCK, start // BLOCK + wide.shape[0] // BLOCK
        steps = np.empty(scales[first:end].shape, np.float32)
        shrinking = _SHRINKING if bits == 4 else _WHOLE
        team().run(_pack, wide.numpy(), bits, shrinking, values[first:end].numpy(), steps)
        scales[first:end] = torch.from_numpy(steps)
    return Packed(bits, outputs, inputs, values, scales)


def unpack(packed: Packed, first: int = 0, end: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Outputs `first` (a multiple of 16) to `end` of the matrix as (outputs, K)."""
    end = packed.outputs if end is None else min(end, packed.outputs)
    blocks = slice(first // BLOCK, -(-end // BLOCK))
    values, scales = packed.values[blocks], packed.scales[blocks]
    if values.device.type != "cpu" or dtype != torch.bfloat16:
        return _unpack_by_torch(values, scales, packed.bits)[: end - first, : packed.inputs].to(dtype)
    rows = torch.empty(values.shape[0] * BLOCK, values.shape[1] * GROUP, dtype=torch.bfloat16)
    words = values.view(torch.int32).squeeze(-1)
    team().run(
        _unpack, *(t.numpy() for t in (words, scales.view(torch.uint16))), packed.bits, rows.view(torch.uint16).numpy()
    )
    return rows[: end - first, : packed.inputs]


def _unpack_by_torch(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """The matrix in fp32, padding included."""
    blocks, groups = scales.shape[:2]
    if bits == 8:
        levels = values.permute(0, 3, 1, 2, 4).reshape(blocks, BLOCK, groups, GROUP)
    else:
        halves = torch.stack([values & 15, values >> 4], dim=3)  # (N/16, groups, pieces, 2, 16, 4)
        levels = halves.permute(0, 4, 1, 2, 3, 5).reshape(blocks, BLOCK, groups, GROUP)
    factors = scales.float().transpose(1, 2).unsqueeze(-1)  # (N/16, 16, groups, 1)
    return ((levels.float() - (1 << (bits - 1))) * factors).reshape(blocks * BLOCK, groups * GROUP)


@njit(inline="always")
def _short(x: Any) -> Any:
    """An fp32 number rounded to what fp16 can hold: 11 digits (Dekker's splitting), or multiples of 2^-24."""
    if abs(x) < np.float32(2**-14):
        return np.rint(x * np.float32(2**24)) * np.float32(2**-24)
    c = x * np.float32(8193)
    return c - (c - x)


@njit(fastmath=FAST)
def _error(group: Any, scale: Any, inverse: Any, low: Any, high: Any) -> Any:
    """The squared error of rounding `group` to multiples of `scale`."""
    error = np.float32(0)
    for k in range(GROUP):
        rest = group[k] - min(max(np.rint(group[k] * inverse), low), high) * scale
        error += rest * rest
    return error


@compiled
def _pack(rank: int, size: int, shared: Any, rows: Any, bits: int, shrinking: Any, values: Any, steps: Any) -> None:
    """Every `size`th block; `steps` are the scales in fp32, of fp16's digits."""
    middle = 1 << (bits - 1)
    low, high = np.float32(-middle), np.float32(middle - 1)
    for block in range(rank, values.shape[0], size):
        for r in range(BLOCK):
            for g in range(values.shape[1]):
                group = rows[block * BLOCK + r, g * GROUP : (g + 1) * GROUP]
                largest = np.float32(0)
                for k in range(GROUP):
                    if abs(group[k]) > abs(largest):
                        largest = group[k]
                # 4 bits: the largest becomes -8, the outermost level, so that a scale may be negative
                span = largest / low if bits == 4 else abs(largest) / high
                scale, least = np.float32(0), np.float32(np.inf)
                for shrink in shrinking:
                    candidate = _short(span * shrink)
                    inverse = np.float32(1) / candidate if candidate != 0 else np.float32(0)
                    error = _error(group, candidate, inverse, low, high)
                    if error < least:
                        least, scale = error, candidate
                steps[block, g, r] = scale
                inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
                for k in range(GROUP):
                    q = np.uint8(np.int32(min(max(np.rint(group[k] * inverse), low), high)) + middle)
                    if bits == 8:
                        values[block, g, k // 4, r, k % 4] = q
                    else:
                        values[block, g, k // 8, r, k % 4] |= q << (4 * (k // 4 % 2))


@compiled
def _unpack(rank: int, size: int, shared: Any, words: Any, scales: Any, bits: int, rows: Any) -> None:
    """Every `size`th block to bfloat16 `rows` (outputs padded, K padded); `words` are `values`, four bytes each."""
    for block in range(rank, words.shape[0], size):
        for g in range(words.shape[1]):
            for r in range(BLOCK):
                target = rows[block * BLOCK + r, g * GROUP : (g + 1) * GROUP]
                scale = from_half(scales[block, g, r])
                if bits == 8:
                    for piece in range(GROUP // 4):
                        word = words[block, g, piece, r]
                        for j in range(4):
                            q = np.float32(((word >> (8 * j)) & 255) - 128)
                            target[4 * piece + j] = to_bf16(q * scale)
                else:
                    for piece in range(GROUP // 8):
                        word = words[block, g, piece, r]
                        for j in range(4):
                            byte = word >> (8 * j)
                            target[8 * piece + j] = to_bf16(np.float32((byte & 15) - 8) * scale)
                            target[8 * piece + 4 + j] = to_bf16(np.float32(((byte >> 4) & 15) - 8) * scale)
