"""Matrix products of few rows by plain or packed weights, to be called from compiled code.

A weight matrix is a row of a table (int64) with the columns FORMAT, VALUES, SCALES, BIAS (addresses; 0: none), OUTPUTS
and INPUTS. Rows of activations are first put into the form that the format's tiles read (`prepare`), once for all
outputs. Threads then share the outputs; which thread computes an output, and beside which others, changes no bit.

Shapes: M rows, N outputs, K inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from neolm.kernels.lanes import HAS_DOT_BF16, HAS_DOT_BYTES, WIDE, as_pointer
from neolm.kernels.mathematics import FAST, to_bf16
from neolm.kernels.packing import BLOCK, GROUP
from neolm.kernels.tiles import packed_tile, plain_tile

FORMAT, VALUES, SCALES, BIAS, OUTPUTS, INPUTS = range(6)
FP32, BF16, INT8, INT4 = range(4)

_ALIGNED = 32  # inputs of plain formats are padded to it, in activations


def prepared_bytes(inputs: int) -> int:
    """Bytes of a prepared row of K inputs, enough for every format."""
    padded = -(-inputs // GROUP) * GROUP
    return 4 * padded + 4 * (padded // GROUP) + 64 & -64


@njit(fastmath=FAST)
def prepare(kind: int, x: Any, target: int) -> None:
    """Put a row of activations x (K, fp32) to the address `target`, in the form that weights of `kind` ask for."""
    if kind == FP32 or (kind == BF16 and not HAS_DOT_BF16):
        _prepare_fp32(kind == BF16, x, target)
    elif kind == BF16:
        _prepare_bf16(x, target)
    elif HAS_DOT_BYTES:
        _prepare_bytes(x, target)
    else:
        _prepare_groups(x, target)


@njit(fastmath=FAST)
def _prepare_fp32(pairs: bool, x: Any, target: int) -> None:
    """As it is; in `pairs` of every 32 first the even ones, then the odd ones."""
    padded = -(-x.size // _ALIGNED) * _ALIGNED
    y = carray(as_pointer(target), padded, np.float32)
    y[x.size // _ALIGNED * _ALIGNED :] = 0
    if not pairs:
        for i in range(x.size):
            y[i] = x[i]
        return
    for i in range(x.size):
        start, place = i // 32 * 32, i % 32
        y[start + place % 2 * 16 + place // 2] = x[i]


@njit(fastmath=FAST)
def _prepare_bf16(x: Any, target: int) -> None:
    padded = -(-x.size // _ALIGNED) * _ALIGNED
    y = carray(as_pointer(target), padded, np.uint16)
    for i in range(x.size):
        y[i] = to_bf16(x[i])
    y[x.size :] = 0


@njit(fastmath=FAST)
def _prepare_bytes(x: Any, target: int) -> None:
    """Each group as whole numbers of 16 bits, in two bytes: x = scale (256 hi + lo)."""
    groups = -(-x.size // GROUP)
    high = carray(as_pointer(target), groups * GROUP, np.int8)
    low = carray(as_pointer(target + groups * GROUP), groups * GROUP, np.int8)
    scales = carray(as_pointer(target + 2 * groups * GROUP), 2 * groups, np.float32)
    sums = carray(as_pointer(target + 2 * groups * GROUP), 2 * groups, np.int32)
    for g in range(groups):
        first = g * GROUP
        # Slices, whose indices are seen not to be negative: only then do loops become vector instructions.
        part, upper, lower = x[first : first + GROUP], high[first : first + GROUP], low[first : first + GROUP]
        largest, poison = np.float32(0), np.float32(0)
        for i in range(part.size):
            largest = max(largest, abs(part[i]))
            poison += part[i] * np.float32(0)  # NaN if one is not finite, which the maximum may not see
        scale = largest / np.float32(32512)
        inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
        total = np.int32(0)
        for i in range(part.size):
            whole = np.int32(np.rint(part[i] * inverse))
            total += whole
            rest = np.int32(np.int8(whole))
            lower[i] = rest
            upper[i] = (whole - rest) >> np.int32(8)
        for i in range(part.size, GROUP):
            lower[i] = upper[i] = 0
        scales[2 * g] = scale + poison
        sums[2 * g + 1] = total


@njit(fastmath=FAST)
def _prepare_groups(x: Any, target: int) -> None:
    """As it is, and each group's sum."""
    groups = -(-x.size // GROUP)
    y = carray(as_pointer(target), groups * GROUP, np.float32)
    sums = carray(as_pointer(target + 4 * groups * GROUP), groups, np.float32)
    y[(groups - 1) * GROUP :] = 0
    for i in range(x.size):
        y[i] = x[i]
    for g in range(groups):
        total = np.float32(0)
        for i in range(GROUP):
            total += y[g * GROUP + i]
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
        scale_stride = 2 * BLOCK * (-(-k // GROUP))
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
    BLOCK, *((32, 4) if WIDE else (16, 2)), lambda outputs, columns: packed_tile(8, outputs // BLOCK, columns)
)
_int4 = _walker(
    BLOCK, *((16, 8) if WIDE else (16, 2)), lambda outputs, columns: packed_tile(4, outputs // BLOCK, columns)
)


@njit
def share(outputs: int, rank: int, size: int) -> tuple[int, int]:
    """The outputs, from and to, that thread `rank` of `size` computes: whole blocks, as even as can be."""
    blocks = -(-outputs // (2 * BLOCK))
    first, end = blocks * rank // size * 2 * BLOCK, blocks * (rank + 1) // size * 2 * BLOCK
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
        _int8(w, groups * GROUP * BLOCK, scales, k, x, x_stride, m, y, y_stride, first, end)
    else:
        _int4(w, groups * GROUP * BLOCK // 2, scales, k, x, x_stride, m, y, y_stride, first, end)
