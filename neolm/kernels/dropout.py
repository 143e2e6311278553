"""Dropout (Srivastava et al. 2014, section 10: scaled in training) by random numbers that are functions of their place.

Elements 2i and 2i + 1 have the lower and the upper half of draw i of the key (`neolm.kernels.random_draws`), and are
dropped if it is below p x 2^32. So the mask is not stored but computed again for the gradient, and it is the same for
any number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import carray
from torch import Tensor

from neolm.kernels.elementwise import run_elementwise
from neolm.kernels.jit import cached_jit
from neolm.kernels.mathematics import as_float, to_bf16
from neolm.kernels.random_draws import draw
from neolm.kernels.simd import as_pointer

BLOCK = 1024  # elements whose random numbers are drawn at once: they stay in a core's first cache


def drop(x: Tensor, key: Tensor, p: float, result: Tensor) -> None:
    """Store `x` / (1 - p) in `result`, or 0 for the share p of the elements; 0 < p < 1.

    Both are contiguous on the CPU, in float32 or bfloat16, and may be the same tensor. The `key` is one int64 number.
    """
    threshold, factor = min(round(p * 2**32), 2**32 - 1), 1 / (1 - p)
    addresses = x.data_ptr(), result.data_ptr(), key.data_ptr()
    if x.dtype == torch.float32:
        run_elementwise(_drop_f32, x.numel(), *addresses, threshold, factor)
    else:
        run_elementwise(_drop_bf16, x.numel(), *addresses, threshold, *_parts(factor))


def _parts(factor: float) -> tuple[float, float]:
    """Summands of `factor`: one of 16 bits, whose product with 8 bits of bfloat16 is exact in float32, and the rest.

    The sum of both products has one rounding that matters, without the cost of float64. The rest is not 0, since its
    product with infinity would be NaN.
    """
    mantissa, exponent = math.frexp(factor)
    high = math.ldexp(math.ceil(mantissa * 2**16) - 1, exponent - 16)
    return high, factor - high


@cached_jit
def _drop_bf16(
    rank: int,
    size: int,
    shared: Any,
    elements: int,
    x: int,
    result: int,
    key: int,
    threshold: int,
    high: float,
    low: float,
) -> None:
    draws = np.empty(BLOCK // 2, np.uint64)
    halves, least = draws.view(np.uint32), np.uint32(threshold)
    large, small = np.float32(high), np.float32(low)
    blocks = (elements + BLOCK - 1) // BLOCK
    for block in range(blocks * rank // size, blocks * (rank + 1) // size):
        _draw_block(key, block, draws)
        start, count = 2 * BLOCK * block, min(BLOCK, elements - BLOCK * block)
        given = carray(as_pointer(x + start), count, np.uint16)
        stored = carray(as_pointer(result + start), count, np.uint16)
        for i in range(count):
            value = as_float(np.int32(given[i]) << np.int32(16))
            stored[i] = to_bf16(value * large + value * small) if halves[i] >= least else np.uint16(0)


@cached_jit
def _drop_f32(
    rank: int, size: int, shared: Any, elements: int, x: int, result: int, key: int, threshold: int, factor: float
) -> None:
    draws = np.empty(BLOCK // 2, np.uint64)
    halves, least = draws.view(np.uint32), np.uint32(threshold)
    blocks = (elements + BLOCK - 1) // BLOCK
    for block in range(blocks * rank // size, blocks * (rank + 1) // size):
        _draw_block(key, block, draws)
        start, count = 4 * BLOCK * block, min(BLOCK, elements - BLOCK * block)
        given = carray(as_pointer(x + start), count, np.float32)
        stored = carray(as_pointer(result + start), count, np.float32)
        for i in range(count):
            value = np.float32(np.float64(given[i]) * factor)
            stored[i] = value if halves[i] >= least else np.float32(0)


@cached_jit
def _draw_block(key: int, block: int, draws: Any) -> None:
    number = carray(as_pointer(key), 1, np.uint64)[0]
    for i in range(BLOCK // 2):
        draws[i] = draw(number, block * (BLOCK // 2) + i)
