"""Matrix products of few rows by plain or packed weights, for compiled callers, and `linear` for Python.

A weight matrix is described by six int64: FORMAT, VALUES, SCALES, BIAS (addresses; 0: none), OUTPUTS and INPUTS. Each
row of activations is packed once for the format's microkernels (`pack_activations`). Threads then divide the outputs;
how they are divided changes no bit of the result.

Shapes: M rows, N outputs, K inputs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit
from numpy.typing import NDArray
from torch import Tensor

from neolm.kernels import simd
from neolm.kernels.jit import cached_jit
from neolm.kernels.mathematics import FAST, to_bf16
from neolm.kernels.microkernels import packed_microkernel, plain_microkernel
from neolm.kernels.packing import GROUP, PANEL
from neolm.kernels.simd import F32, HAS_AVX512, HAS_AVX512_BF16, HAS_VNNI, I8, I32, LANES, Builder, Value, as_pointer
from neolm.kernels.thread_pool import barrier, thread_pool

FORMAT, VALUES, SCALES, BIAS, OUTPUTS, INPUTS = range(6)
FP32, BF16, INT8, INT4 = range(4)

_PLAIN_PADDING = 32  # activations for plain formats are padded to a multiple of it


def packed_activation_bytes(inputs: int) -> int:
    """Bytes of a packed row of `inputs` activations, enough for every format."""
    padded = -(-inputs // GROUP) * GROUP
    return 4 * padded + 4 * (padded // GROUP) + 64 & -64


@njit(fastmath=FAST)
def pack_activations(kind: int, x: Any, target: int, first: int, end: int) -> None:
    """Pack inputs `first` to `end` of a row of activations (K, fp32) for weights of format `kind`.

    `target` is the address of the packed row; `first` and `end` are multiples of 64, or K: then padding is written too.
    """
    if kind == FP32 or (kind == BF16 and not HAS_AVX512_BF16):
        _pack_fp32(kind == BF16, x, target, first, end)
    elif kind == BF16:
        _pack_bf16(x, target, first, end)
    elif HAS_VNNI:
        _pack_int16(x, target, first, end)
    else:
        _pack_fp32_groups(x, target, first, end)


@njit(fastmath=FAST)
def _pack_fp32(pairs: bool, x: Any, target: int, first: int, end: int) -> None:
    """Copy; with `pairs`, of each 32 the even ones first, then the odd ones."""
    padded = -(-x.size // _PLAIN_PADDING) * _PLAIN_PADDING
    y = carray(as_pointer(target), padded, np.float32)
    if end == x.size:
        y[x.size // _PLAIN_PADDING * _PLAIN_PADDING :] = 0
    if not pairs:
        for i in range(first, end):
            y[i] = x[i]
        return
    for i in range(first, end):
        start, place = i // 32 * 32, i % 32
        y[start + place % 2 * 16 + place // 2] = x[i]


@njit(fastmath=FAST)
def _pack_bf16(x: Any, target: int, first: int, end: int) -> None:
    padded = -(-x.size // _PLAIN_PADDING) * _PLAIN_PADDING
    y = carray(as_pointer(target), padded, np.uint16)
    part, short = x[first:end], y[first:end]
    for i in range(part.size):
        short[i] = to_bf16(part[i])
    if end == x.size:
        y[x.size :] = 0


@njit(fastmath=FAST)
def _pack_int16(x: Any, target: int, begin: int, end: int) -> None:
    """Round each group to 16-bit integers in two bytes: x = scale (256 hi + lo)."""
    groups = -(-x.size // GROUP)
    high, pairs = target, target + 2 * groups * GROUP
    for g in range(begin // GROUP, -(-end // GROUP)):
        first = g * GROUP
        _round_group(x.ctypes.data + 4 * first, x.size - first, high + first, groups * GROUP, pairs + 8 * g)


@simd.llvm_function
def _round_group(builder: Builder, x: Value, left: Value, high: Value, low: Value, pair: Value) -> None:
    """Round the first `left` inputs of a group; the low bytes are stored `low` bytes after the high ones."""
    whole = range(0, GROUP, LANES)
    parts = [
        simd.load_masked(builder, x, simd.int64(4 * n), F32, builder.trunc(builder.sub(left, simd.int64(n)), I32))
        for n in whole
    ]
    magnitude = simd.constant(I32, 0)
    for part in parts:  # the bits without sign are ordered as the magnitudes, infinity and NaN last
        bits = builder.and_(builder.bitcast(part, simd.vector(I32)), simd.constant(I32, 0x7FFFFFFF))
        magnitude = simd.call(builder, "llvm.umax.v16i32", simd.vector(I32), [magnitude, bits])
    largest = builder.bitcast(simd.call(builder, "llvm.vector.reduce.umax.v16i32", I32, [magnitude]), F32)
    scale = builder.fdiv(largest, ir.Constant(F32, 32512.0))
    inverse = builder.fdiv(ir.Constant(F32, 1.0), scale)
    inverse = builder.select(builder.fcmp_ordered(">", scale, ir.Constant(F32, 0.0)), inverse, ir.Constant(F32, 0.0))
    total = simd.constant(I32, 0)
    for n, part in zip(whole, parts, strict=True):
        scaled = builder.fmul(part, simd.splat(builder, inverse))
        value = builder.fptosi(simd.call(builder, "llvm.rint.v16f32", simd.vector(F32), [scaled]), simd.vector(I32))
        total = builder.add(total, value)
        rest = builder.ashr(builder.shl(value, simd.constant(I32, 24)), simd.constant(I32, 24))
        upper = builder.ashr(builder.sub(value, rest), simd.constant(I32, 8))
        simd.store(builder, high, simd.int64(n), builder.trunc(upper, simd.vector(I8)))
        simd.store(builder, builder.add(high, low), simd.int64(n), builder.trunc(rest, simd.vector(I8)))
    simd.store(builder, pair, simd.int64(0), scale)
    simd.store(builder, pair, simd.int64(4), simd.call(builder, "llvm.vector.reduce.add.v16i32", I32, [total]))


@njit(fastmath=FAST)
def _pack_fp32_groups(x: Any, target: int, begin: int, end: int) -> None:
    """Copy, and append the sum of each group."""
    groups = -(-x.size // GROUP)
    y = carray(as_pointer(target), groups * GROUP, np.float32)
    sums = carray(as_pointer(target + 4 * groups * GROUP), groups, np.float32)
    for g in range(begin // GROUP, -(-end // GROUP)):
        part, own = x[g * GROUP : (g + 1) * GROUP], y[g * GROUP : (g + 1) * GROUP]
        total = np.float32(0)
        for i in range(part.size):
            own[i] = part[i]
            total += part[i]
        own[part.size :] = 0
        sums[g] = total


def _macrokernel(unit: int, tile: int, rows: int, make: Any) -> Any:
    """Macrokernel that computes outputs `first` to `end` of M rows.

    Rows are computed in tiles of `tile` outputs and `rows` rows; the rows left over one by one, `unit` outputs at a
    time, in the order of memory, which is fastest. `make(outputs, rows)` returns a microkernel.
    """
    many, one = make(tile, rows), make(unit, 1)

    @njit
    def macrokernel(
        weights: Any, stride: int, x: int, x_stride: int, m: int, y: int, y_stride: int, first: int, end: int
    ) -> None:
        w, scales, k = weights[VALUES], weights[SCALES], weights[INPUTS]
        scale_stride = 2 * PANEL * (-(-k // GROUP))
        n = first
        while n < end:
            width, row = unit, 0
            if n + tile <= end:
                width = tile
                w_n, s_n = w + n // unit * stride, scales + n // unit * scale_stride
                while row + rows <= m:
                    at = row * x_stride
                    many(w_n, stride, s_n, k, x + at, x_stride, y + 4 * n + row * y_stride, y_stride)
                    row += rows
            while row < m:
                at = row * x_stride
                for r in range(n, n + width, unit):
                    w_r, s_r = w + r // unit * stride, scales + r // unit * scale_stride
                    one(w_r, stride, s_r, k, x + at, x_stride, y + 4 * r + row * y_stride, y_stride)
                row += 1
            n += width

    return macrokernel


# Outputs and rows of a tile: its sums fill the CPU's registers.
_fp32 = _macrokernel(1, *((4, 8) if HAS_AVX512 else (2, 2)), partial(plain_microkernel, 32))
_bf16 = _macrokernel(1, *((4, 8) if HAS_AVX512 else (2, 2)), partial(plain_microkernel, 16))
_int8 = _macrokernel(PANEL, *((32, 4) if HAS_AVX512 else (16, 2)), partial(packed_microkernel, 8))
_int4 = _macrokernel(PANEL, *((16, 8) if HAS_AVX512 else (16, 2)), partial(packed_microkernel, 4))


@njit
def thread_outputs(outputs: int, rank: int, size: int) -> tuple[int, int]:
    """Outputs (first, end) that thread `rank` of `size` computes: pairs of panels, divided evenly."""
    pairs = -(-outputs // (2 * PANEL))
    first, end = pairs * rank // size * 2 * PANEL, pairs * (rank + 1) // size * 2 * PANEL
    return min(first, outputs), min(end, outputs)


@njit(inline="always")
def matmul(weights: Any, x: int, x_stride: int, m: int, y: int, y_stride: int, first: int, end: int) -> None:
    """Compute Y[:, first:end] = X W[first:end]^T without the bias, for outputs from `thread_outputs`.

    X (packed) and Y (fp32, rows of N padded to 16) are given by their addresses and the bytes from one row to the next.
    """
    kind, k = weights[FORMAT], weights[INPUTS]
    groups = -(-k // GROUP)
    if kind == FP32:
        _fp32(weights, 4 * k, x, x_stride, m, y, y_stride, first, end)
    elif kind == BF16:
        _bf16(weights, 2 * k, x, x_stride, m, y, y_stride, first, end)
    elif kind == INT8:
        _int8(weights, groups * GROUP * PANEL, x, x_stride, m, y, y_stride, first, end)
    else:
        _int4(weights, groups * GROUP * PANEL // 2, x, x_stride, m, y, y_stride, first, end)


@njit(inline="always")
def product(rank: int, size: int, weights: Any, m: int, packed: Any, y: Any) -> tuple[int, int]:
    """Compute this thread's outputs of a product of `m` packed rows, with bias; returns (first, end)."""
    first, end = thread_outputs(weights[OUTPUTS], rank, size)
    matmul(weights, packed.ctypes.data, packed.strides[0], m, y.ctypes.data, y.strides[0], first, end)
    if weights[BIAS]:
        bias = carray(as_pointer(weights[BIAS]), weights[OUTPUTS], np.float32)
        for row in range(m):
            for n in range(first, end):
                y[row, n] += bias[n]
    return first, end


def linear(weights: NDArray[np.int64], x: Tensor) -> Tensor:
    """Return X W^T (M, N) in fp32, plus any bias, for X (M, K) in fp32 and a descriptor of W."""
    rows, outputs = len(x), int(weights[OUTPUTS])
    packed = np.empty((rows, packed_activation_bytes(int(weights[INPUTS]))), np.uint8)
    y = np.empty((rows, -(-outputs // PANEL) * PANEL), np.float32)
    thread_pool().run(_linear, weights, x.detach().contiguous().numpy(), packed, y)
    return torch.from_numpy(y)[:, :outputs]


@cached_jit
def _linear(rank: int, size: int, shared: Any, weights: Any, x: Any, packed: Any, y: Any) -> None:
    for m in range(rank, x.shape[0], size):
        pack_activations(weights[FORMAT], x[m], packed[m].ctypes.data, 0, x.shape[1])
    barrier(size, shared)
    product(rank, size, weights, x.shape[0], packed, y)
