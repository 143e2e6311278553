"""Group-wise quantisation of weights to 8 and 4 bits, in the layout that the kernels read.

A weight matrix (N outputs, K inputs) is divided into groups of 64 inputs of one output. Each group has an fp16 scale;
its weights are scale x (q - 2^(bits-1)) with integers 0 <= q < 2^bits. With the scales that is 8.25 and 4.25 bits a
weight. Outputs are padded to panels of 16, inputs to groups; padding has scale 0. What it leaves out: choosing q by the
model's activations (GPTQ, AWQ).

Layout: `values` (N/16, K/64, vectors, 16, 4) bytes; a vector is 64 bytes, for each of 16 outputs four neighbouring
inputs. With 4 bits, a byte's lower half belongs to the first four of eight inputs, its upper half to the last four.
`scales` (N/16, K/64, 16).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from neolm.kernels import simd
from neolm.kernels.jit import cached_jit
from neolm.kernels.mathematics import FAST
from neolm.kernels.simd import F16, F32, I32, Builder, Value
from neolm.kernels.thread_pool import thread_pool

GROUP = 64  # inputs that share a scale
PANEL = 16  # outputs that a vector holds side by side (BLIS: a micropanel)
_MAX_FP32_ROWS = 4096  # converted to fp32 at a time

# Factors of the scale, tried in this order. A factor below 1 clips the largest weight and rounds the others finer.
_SCALE_FACTORS = np.array([1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.76, 0.72, 0.68], np.float32)


@dataclass(frozen=True)
class Packed:
    """A weight matrix of `outputs` x `inputs` in 8 or 4 bits."""

    bits: int
    outputs: int
    inputs: int
    values: Tensor  # uint8
    scales: Tensor  # fp16


def packed_shapes(bits: int, outputs: int, inputs: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of `values` and `scales`."""
    panels, groups = -(-outputs // PANEL), -(-inputs // GROUP)
    return (panels, groups, GROUP * bits // 32, PANEL, 4), (panels, groups, PANEL)


def largest_weight(bits: int) -> float:
    """The largest finite weight that `pack` can store: the scales are fp16."""
    levels = 8 if bits == 4 else 127  # between zero and the largest weight of a group
    return float(levels * torch.finfo(torch.float16).max)


def pack(weight: Tensor, bits: int) -> Packed:
    """Quantise a matrix (N, K) to `bits`; each group takes, of a few scales, the one with the least squared error.

    The weights must be finite and at most `largest_weight(bits)` in size, which is not checked here.
    """
    outputs, inputs = weight.shape
    value_shape, scale_shape = packed_shapes(bits, outputs, inputs)
    values = torch.zeros(value_shape, dtype=torch.uint8)
    scales = torch.empty(scale_shape, dtype=torch.float16)
    padded = scale_shape[1] * GROUP
    for start in range(0, outputs, _MAX_FP32_ROWS):
        rows = weight[start : start + _MAX_FP32_ROWS]
        wide = torch.zeros(-(-rows.shape[0] // PANEL) * PANEL, padded)
        wide[: rows.shape[0], :inputs] = rows
        first, end = start // PANEL, start // PANEL + wide.shape[0] // PANEL
        fp32_scales = np.empty(scales[first:end].shape, np.float32)
        factors = _SCALE_FACTORS if bits == 4 else _SCALE_FACTORS[:1]
        thread_pool().run(_pack, wide.numpy(), bits, factors, values[first:end].numpy(), fp32_scales)
        scales[first:end] = torch.from_numpy(fp32_scales)
    return Packed(bits, outputs, inputs, values, scales)


def unpack(packed: Packed, dtype: torch.dtype = torch.float32) -> Tensor:
    """Dequantise to a matrix (N, K)."""
    wide = _wide(packed.values.permute(0, 3, 1, 2, 4), packed.scales.transpose(1, 2), packed.bits)
    return wide.flatten(0, 1)[: packed.outputs, : packed.inputs].to(dtype)


def unpack_rows(packed: Packed, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Dequantise the rows (R) of the matrix to (R, K)."""
    panel, row = rows // PANEL, rows % PANEL
    wide = _wide(packed.values[panel, :, :, row], packed.scales[panel, :, row], packed.bits)
    return wide[:, : packed.inputs].to(dtype)


def _wide(values: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Dequantise bytes (..., groups, vectors, 4) with scales (..., groups) to (..., groups x 64)."""
    if bits == 4:
        values = torch.stack([values & 15, values >> 4], dim=-2)
    levels = values.reshape(*scales.shape, GROUP).float() - (1 << (bits - 1))
    return (levels * scales.float().unsqueeze(-1)).flatten(-2)


def widen(packed: Packed, first: int, end: int, dtype: torch.dtype) -> Tensor:
    """Dequantise outputs `first` (a multiple of 16) to `end`, transposed: (K, outputs)."""
    panels = slice(first // PANEL, -(-end // PANEL))
    values, scales = packed.values[panels], packed.scales[panels]
    if values.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float32):
        part = Packed(packed.bits, end - first, packed.inputs, values, scales)
        return unpack(part, dtype).t()
    wide = torch.empty(values.shape[1] * GROUP, values.shape[0] * PANEL, dtype=dtype)
    target = wide.view(torch.uint16) if dtype == torch.bfloat16 else wide
    thread_pool().run(_widen, values.numpy(), scales.view(torch.uint16).numpy(), target.numpy())
    return wide[: packed.inputs, : end - first]


@njit(inline="always")
def _round_to_fp16(x: Any) -> Any:
    """Round an fp32 number to fp16 precision: 11 bits (Dekker's splitting), or multiples of 2^-24."""
    if abs(x) < np.float32(2**-14):
        return np.rint(x * np.float32(2**24)) * np.float32(2**-24)
    c = x * np.float32(8193)
    return c - (c - x)


@njit(fastmath=FAST)
def _error(group: Any, scale: Any, inverse: Any, low: Any, high: Any) -> Any:
    """Squared error of rounding `group` to multiples of `scale`."""
    error = np.float32(0)
    for k in range(GROUP):
        rest = group[k] - min(max(np.rint(group[k] * inverse), low), high) * scale
        error += rest * rest
    return error


@cached_jit
def _pack(rank: int, size: int, shared: Any, rows: Any, bits: int, factors: Any, values: Any, scales: Any) -> None:
    """Quantise every `size`th panel; `scales` are fp32 numbers with fp16 precision."""
    middle = 1 << (bits - 1)
    low, high = np.float32(-middle), np.float32(middle - 1)
    for panel in range(rank, values.shape[0], size):
        for r in range(PANEL):
            for g in range(values.shape[1]):
                group = rows[panel * PANEL + r, g * GROUP : (g + 1) * GROUP]
                largest = np.float32(0)
                for k in range(GROUP):
                    if abs(group[k]) > abs(largest):
                        largest = group[k]
                # 4 bits: the largest weight becomes -8, the outermost level; so a scale may be negative
                span = largest / low if bits == 4 else abs(largest) / high
                scale, least = np.float32(0), np.float32(np.inf)
                for factor in factors:
                    candidate = _round_to_fp16(span * factor)
                    inverse = np.float32(1) / candidate if candidate != 0 else np.float32(0)
                    error = _error(group, candidate, inverse, low, high)
                    if error < least:
                        least, scale = error, candidate
                scales[panel, g, r] = scale
                inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
                for k in range(GROUP):
                    q = np.uint8(np.int32(min(max(np.rint(group[k] * inverse), low), high)) + middle)
                    if bits == 8:
                        values[panel, g, k // 4, r, k % 4] = q
                    else:
                        values[panel, g, k // 8, r, k % 4] |= q << (4 * (k // 4 % 2))


def _dequantise(bits: int, to_bf16: bool) -> Any:
    """Microkernel that dequantises one panel and group to 64 rows of 16 outputs, in bfloat16 or fp32."""

    @simd.llvm_function
    def dequantise(builder: Builder, words: Value, scales: Value, wide: Value, stride: Value) -> None:
        factor = builder.fpext(simd.load(builder, scales, simd.int64(0), simd.vector(F16), 2), simd.vector(F32))
        mask, middle = simd.constant(I32, (1 << bits) - 1), simd.constant(I32, 1 << (bits - 1))
        for vector_index in range(GROUP * bits // 32):
            word = simd.load(builder, words, simd.int64(64 * vector_index), simd.vector(I32))
            for part in range(32 // bits):  # from the lowest bits of each word
                # With 4 bits, the lower halves of the bytes hold the first four inputs, the upper halves the last four.
                row = 4 * vector_index + part if bits == 8 else 8 * vector_index + part // 2 + 4 * (part % 2)
                level = builder.sub(builder.and_(builder.lshr(word, simd.constant(I32, bits * part)), mask), middle)
                value = builder.fmul(builder.sitofp(level, simd.vector(F32)), factor)
                if to_bf16:
                    value = simd.narrow_to_bf16(builder, value)
                simd.store(builder, wide, builder.mul(stride, simd.int64(row)), value)

    return dequantise


_int8_to_bf16, _int8_to_fp32 = _dequantise(8, True), _dequantise(8, False)
_int4_to_bf16, _int4_to_fp32 = _dequantise(4, True), _dequantise(4, False)


@cached_jit
def _widen(rank: int, size: int, shared: Any, values: Any, scales: Any, wide: Any) -> None:
    """Dequantise every `size`th panel to `wide` (K, N), fp32 or the bits of bfloat16."""
    short, stride = wide.itemsize == 2, wide.strides[0]
    for panel in range(rank, values.shape[0], size):
        for g in range(values.shape[1]):
            words, factors = values[panel, g].ctypes.data, scales[panel, g].ctypes.data
            target = wide.ctypes.data + g * GROUP * stride + panel * PANEL * wide.itemsize
            if values.shape[2] == GROUP // 4:
                if short:
                    _int8_to_bf16(words, factors, target, stride)
                else:
                    _int8_to_fp32(words, factors, target, stride)
            elif short:
                _int4_to_bf16(words, factors, target, stride)
            else:
                _int4_to_fp32(words, factors, target, stride)
