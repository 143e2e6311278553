"""Matrix products of few rows by plain or packed weights, to be called from compiled code.

A weight matrix is a row of a table (int64) with the columns FORMAT, VALUES, SCALES, BIAS (addresses; 0: none), OUTPUTS
and INPUTS. Rows of activations are first put into the form that the format's tiles read (`prepare`), once for all
outputs. Threads then share the outputs; which thread computes an output, and beside which others, changes no bit.

Shapes: M rows, N outputs, K inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit

from neolm.kernels.lanes import (
    F32,
    HAS_DOT_BF16,
    HAS_DOT_BYTES,
    I8,
    I32,
    LANES,
    WIDE,
    Builder,
    Value,
    as_pointer,
    call,
    constant,
    emitted,
    lanes,
    load_first,
    number,
    splat,
    store,
)
from neolm.kernels.mathematics import FAST, to_bf16
from neolm.kernels.packing import GROUP, PANEL
from neolm.kernels.tiles import packed_tile, plain_tile

FORMAT, VALUES, SCALES, BIAS, OUTPUTS, INPUTS = range(6)
FP32, BF16, INT8, INT4 = range(4)

_ALIGNED = 32  # inputs of plain formats are padded to it, in activations


def prepared_bytes(inputs: int) -> int:
    """Bytes of a prepared row of K inputs, enough for every format."""
    padded = -(-inputs // GROUP) * GROUP
    return 4 * padded + 4 * (padded // GROUP) + 64 & -64


@njit(fastmath=FAST)
def prepare(kind: int, x: Any, target: int, first: int, end: int) -> None:
    """Put inputs `first` to `end` of a row of activations to `target`, in the form that weights of `kind` ask for.

    Args:
        kind: Format of the weights.
        x: The row (K), fp32.
        target: Address of the prepared row.
        first: A multiple of 64, as is `end`, if it is not K.
        end: One more than the last; who does the last prepares the padding too.
    """
    if kind == FP32 or (kind == BF16 and not HAS_DOT_BF16):
        _prepare_fp32(kind == BF16, x, target, first, end)
    elif kind == BF16:
        _prepare_bf16(x, target, first, end)
    elif HAS_DOT_BYTES:
        _prepare_bytes(x, target, first, end)
    else:
        _prepare_groups(x, target, first, end)


@njit(fastmath=FAST)
def _prepare_fp32(pairs: bool, x: Any, target: int, first: int, end: int) -> None:
    """As it is; in `pairs` of every 32 first the even ones, then the odd ones."""
    padded = -(-x.size // _ALIGNED) * _ALIGNED
    y = carray(as_pointer(target), padded, np.float32)
    if end == x.size:
        y[x.size // _ALIGNED * _ALIGNED :] = 0
    if not pairs:
        for i in range(first, end):
            y[i] = x[i]
        return
    for i in range(first, end):
        start, place = i // 32 * 32, i % 32
        y[start + place % 2 * 16 + place // 2] = x[i]


@njit(fastmath=FAST)
def _prepare_bf16(x: Any, target: int, first: int, end: int) -> None:
    padded = -(-x.size // _ALIGNED) * _ALIGNED
    y = carray(as_pointer(target), padded, np.uint16)
    part, short = x[first:end], y[first:end]
    for i in range(part.size):
        short[i] = to_bf16(part[i])
    if end == x.size:
        y[x.size :] = 0


@njit(fastmath=FAST)
def _prepare_bytes(x: Any, target: int, begin: int, end: int) -> None:
    """Each group as whole numbers of 16 bits, in two bytes: x = scale (256 hi + lo)."""
    groups = -(-x.size // GROUP)
    high, pairs = target, target + 2 * groups * GROUP
    for g in range(begin // GROUP, -(-end // GROUP)):
        first = g * GROUP
        _round_group(x.ctypes.data + 4 * first, x.size - first, high + first, groups * GROUP, pairs + 8 * g)


@emitted
def _round_group(builder: Builder, x: Value, left: Value, high: Value, low: Value, pair: Value) -> None:
    """A group of x, of which `left` inputs are there; the low bytes lie `low` behind the high ones."""
    whole = range(0, GROUP, LANES)
    parts = [
        load_first(builder, x, number(4 * n), F32, builder.trunc(builder.sub(left, number(n)), I32)) for n in whole
    ]
    magnitude = constant(I32, 0)
    for part in parts:  # without their sign the bits are in the order of the numbers, infinity and NaN last
        bits = builder.and_(builder.bitcast(part, lanes(I32)), constant(I32, 0x7FFFFFFF))
        magnitude = call(builder, "llvm.umax.v16i32", lanes(I32), [magnitude, bits])
    largest = builder.bitcast(call(builder, "llvm.vector.reduce.umax.v16i32", I32, [magnitude]), F32)
    scale = builder.fdiv(largest, ir.Constant(F32, 32512.0))
    inverse = builder.fdiv(ir.Constant(F32, 1.0), scale)
    inverse = builder.select(builder.fcmp_ordered(">", scale, ir.Constant(F32, 0.0)), inverse, ir.Constant(F32, 0.0))
    total = constant(I32, 0)
    for n, part in zip(whole, parts, strict=True):
        scaled = builder.fmul(part, splat(builder, inverse))
        value = builder.fptosi(call(builder, "llvm.rint.v16f32", lanes(F32), [scaled]), lanes(I32))
        total = builder.add(total, value)
        rest = builder.ashr(builder.shl(value, constant(I32, 24)), constant(I32, 24))
        upper = builder.ashr(builder.sub(value, rest), constant(I32, 8))
        store(builder, high, number(n), builder.trunc(upper, lanes(I8)))
        store(builder, builder.add(high, low), number(n), builder.trunc(rest, lanes(I8)))
    store(builder, pair, number(0), scale)
    store(builder, pair, number(4), call(builder, "llvm.vector.reduce.add.v16i32", I32, [total]))


@njit(fastmath=FAST)
def _prepare_groups(x: Any, target: int, begin: int, end: int) -> None:
    """As it is, and each group's sum."""
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


def _walker(unit: int, tile: int, columns: int, make: Any) -> Any:
    """A function that computes outputs `first` to `end` of M rows.

    As many rows as fill tiles of `tile` outputs and `columns` rows go together; the others one by one, `unit` outputs
    at a time, in the order of memory, which is read fastest by one stream. `make(outputs, columns)` gives a tile.
    """
    many, one = make(tile, columns), make(unit, 1)

    @njit
    def walk(
        w: int,
        stride: int,
        scales: int,
        k: int,
        x: int,
        x_stride: int,
        m: int,
        y: int,
        y_stride: int,
        first: int,
        end: int,
    ) -> None:
        scale_stride = 2 * PANEL * (-(-k // GROUP))
        n = first
        while n < end:
            width, column = unit, 0
            if n + tile <= end:
                width = tile
                w_n, s_n = w + n // unit * stride, scales + n // unit * scale_stride
                while column + columns <= m:
                    at = column * x_stride
                    many(w_n, stride, s_n, k, x + at, x_stride, y + 4 * n + column * y_stride, y_stride)
                    column += columns
            while column < m:
                at = column * x_stride
                for r in range(n, n + width, unit):
                    w_r, s_r = w + r // unit * stride, scales + r // unit * scale_stride
                    one(w_r, stride, s_r, k, x + at, x_stride, y + 4 * r + column * y_stride, y_stride)
                column += 1
            n += width

    return walk


# Outputs and columns of a tile: its sums fill the processor's registers.
_fp32 = _walker(1, *((4, 8) if WIDE else (2, 2)), lambda outputs, columns: plain_tile(32, outputs, columns))
_bf16 = _walker(1, *((4, 8) if WIDE else (2, 2)), lambda outputs, columns: plain_tile(16, outputs, columns))
_int8 = _walker(
    PANEL, *((32, 4) if WIDE else (16, 2)), lambda outputs, columns: packed_tile(8, outputs // PANEL, columns)
)
_int4 = _walker(
    PANEL, *((16, 8) if WIDE else (16, 2)), lambda outputs, columns: packed_tile(4, outputs // PANEL, columns)
)


@njit
def share(outputs: int, rank: int, size: int) -> tuple[int, int]:
    """The outputs, from and to, that thread `rank` of `size` computes: whole blocks, as even as can be."""
    blocks = -(-outputs // (2 * PANEL))
    first, end = blocks * rank // size * 2 * PANEL, blocks * (rank + 1) // size * 2 * PANEL
    return min(first, outputs), min(end, outputs)


@njit(inline="always")
def multiply(weights: Any, x: int, x_stride: int, m: int, y: int, y_stride: int, first: int, end: int) -> None:
    """Y[:, first:end] = X W[first:end]^T without the bias.

    Args:
        weights: A row of the table of weights.
        x: Address of M prepared rows, `x_stride` bytes apart.
        x_stride: See `prepared_bytes`.
        m: The number of rows.
        y: Address of the result, fp32, with rows `y_stride` bytes apart that have room for N padded to 16.
        y_stride: Bytes.
        first: From `share`, as is `end`.
        end: The first output that is not computed.
    """
    kind, w, scales, k = weights[FORMAT], weights[VALUES], weights[SCALES], weights[INPUTS]
    groups = -(-k // GROUP)
    if kind == FP32:
        _fp32(w, 4 * k, 0, k, x, x_stride, m, y, y_stride, first, end)
    elif kind == BF16:
        _bf16(w, 2 * k, 0, k, x, x_stride, m, y, y_stride, first, end)
    elif kind == INT8:
        _int8(w, groups * GROUP * PANEL, scales, k, x, x_stride, m, y, y_stride, first, end)
    else:
        _int4(w, groups * GROUP * PANEL // 2, scales, k, x, x_stride, m, y, y_stride, first, end)
