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
from neolm.kernels.lanes import (
    F16,
    F32,
    I32,
    Builder,
    Value,
    constant,
    emitted,
    lanes,
    load,
    narrow_to_bf16,
    number,
    store,
)
from neolm.kernels.mathematics import FAST
from neolm.kernels.team import team

GROUP = 64  # inputs that share a scale
PANEL = 16  # outputs side by side
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
    blocks, groups = -(-outputs // PANEL), -(-inputs // GROUP)
    return (blocks, groups, GROUP * bits // 32, PANEL, 4), (blocks, groups, PANEL)


def pack(weight: Tensor, bits: int) -> Packed:
    """Round a matrix (N, K) to `bits`; each group's scale is the one, of a few, with the least squared error."""
    outputs, inputs = weight.shape
    value_shape, scale_shape = packed_shapes(bits, outputs, inputs)
    values = torch.zeros(value_shape, dtype=torch.uint8)
    scales = torch.empty(scale_shape, dtype=torch.float16)
    padded = scale_shape[1] * GROUP
    for start in range(0, outputs, _ROWS_AT_ONCE):
        rows = weight[start : start + _ROWS_AT_ONCE]
        wide = torch.zeros(-(-rows.shape[0] // PANEL) * PANEL, padded)
        wide[: rows.shape[0], :inputs] = rows
        first, end = start // PANEL, start // PANEL + wide.shape[0] // PANEL
        steps = np.empty(scales[first:end].shape, np.float32)
        shrinking = _SHRINKING if bits == 4 else _WHOLE
        team().run(_pack, wide.numpy(), bits, shrinking, values[first:end].numpy(), steps)
        scales[first:end] = torch.from_numpy(steps)
    return Packed(bits, outputs, inputs, values, scales)


def unpack(packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix (N, K)."""
    wide = _wide(packed.values.permute(0, 3, 1, 2, 4), packed.scales.transpose(1, 2), packed.bits)
    return wide.flatten(0, 1)[: packed.outputs, : packed.inputs].to(dtype)


def unpack_rows(packed: Packed, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Some rows (R) of the matrix, (R, K)."""
    block, row = rows // PANEL, rows % PANEL
    wide = _wide(packed.values[block, :, :, row], packed.scales[block, :, row], packed.bits)
    return wide[:, : packed.inputs].to(dtype)


def _wide(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """What bytes (..., groups, pieces, 4) and scales (..., groups) stand for, (..., groups x 64)."""
    if bits == 4:
        values = torch.stack([values & 15, values >> 4], dim=-2)
    levels = values.reshape(*scales.shape, GROUP).float() - (1 << (bits - 1))
    return (levels * scales.float().unsqueeze(-1)).flatten(-2)


def widen(packed: Packed, first: int, end: int, dtype: torch.dtype) -> Tensor:
    """Outputs `first` (a multiple of 16) to `end` of the transposed matrix, (K, outputs), to multiply with."""
    blocks = slice(first // PANEL, -(-end // PANEL))
    values, scales = packed.values[blocks], packed.scales[blocks]
    if values.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float32):
        part = Packed(packed.bits, end - first, packed.inputs, values, scales)
        return unpack(part, dtype).t()
    wide = torch.empty(values.shape[1] * GROUP, values.shape[0] * PANEL, dtype=dtype)
    target = wide.view(torch.uint16) if dtype == torch.bfloat16 else wide
    team().run(_widen, values.numpy(), scales.view(torch.uint16).numpy(), target.numpy())
    return wide[: packed.inputs, : end - first]


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
        for r in range(PANEL):
            for g in range(values.shape[1]):
                group = rows[block * PANEL + r, g * GROUP : (g + 1) * GROUP]
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


def _widen_tile(bits: int, short: bool) -> Any:
    """One block and group to 64 rows of 16 outputs' weights, in bfloat16 or fp32."""

    @emitted
    def tile(builder: Builder, words: Value, scales: Value, wide: Value, stride: Value) -> None:
        factor = builder.fpext(load(builder, scales, number(0), lanes(F16), 2), lanes(F32))
        mask, middle = constant(I32, (1 << bits) - 1), constant(I32, 1 << (bits - 1))
        for piece in range(GROUP * bits // 32):
            word = load(builder, words, number(64 * piece), lanes(I32))
            for part in range(32 // bits):  # from a word's lowest bits up
                # With 4 bits, lower halves of the bytes are of the first four inputs, upper ones of the last four.
                row = 4 * piece + part if bits == 8 else 8 * piece + part // 2 + 4 * (part % 2)
                level = builder.sub(builder.and_(builder.lshr(word, constant(I32, bits * part)), mask), middle)
                value = builder.fmul(builder.sitofp(level, lanes(F32)), factor)
                if short:
                    value = narrow_to_bf16(builder, value)
                store(builder, wide, builder.mul(stride, number(row)), value)

    return tile


_widen_8_short, _widen_8_long = _widen_tile(8, True), _widen_tile(8, False)
_widen_4_short, _widen_4_long = _widen_tile(4, True), _widen_tile(4, False)


@compiled
def _widen(rank: int, size: int, shared: Any, values: Any, scales: Any, wide: Any) -> None:
    """Every `size`th block to `wide` (K, N), fp32 or the bits of bfloat16."""
    short, stride = wide.itemsize == 2, wide.strides[0]
    for block in range(rank, values.shape[0], size):
        for g in range(values.shape[1]):
            words, factors = values[block, g].ctypes.data, scales[block, g].ctypes.data
            target = wide.ctypes.data + g * GROUP * stride + block * PANEL * wide.itemsize
            if values.shape[2] == GROUP // 4:
                if short:
                    _widen_8_short(words, factors, target, stride)
                else:
                    _widen_8_long(words, factors, target, stride)
            elif short:
                _widen_4_short(words, factors, target, stride)
            else:
                _widen_4_long(words, factors, target, stride)
