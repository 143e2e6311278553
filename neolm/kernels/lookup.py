"""Functions of one bfloat16 number as tables of their 65,536 values, and the products with their derivatives.

Reading a table is faster than any arithmetic for a function with an exponential: activations are near zero, so the
entries that are read fit into a core's first cache. The values are correctly rounded, since the tables are.

An element depends on nothing but its input, so the results are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import carray
from torch import Tensor

from neolm.kernels.elementwise import run_elementwise
from neolm.kernels.jit import cached_jit
from neolm.kernels.mathematics import as_float, to_bf16
from neolm.kernels.simd import as_pointer


def lookup(x: Tensor, values: Tensor) -> Tensor:
    """The bfloat16 `values` (65,536) at the bits of `x`, contiguous bfloat16 on the CPU of any shape."""
    result = torch.empty_like(x)
    run_elementwise(_lookup, x.numel(), x.data_ptr(), result.data_ptr(), values.data_ptr())
    return result


def lookup_product(grad: Tensor, x: Tensor, slopes: Tensor) -> Tensor:
    """`grad` times the float32 `slopes` (65,536) at the bits of `x`; both contiguous bfloat16 on the CPU."""
    result = torch.empty_like(x)
    addresses = grad.data_ptr(), x.data_ptr(), result.data_ptr(), slopes.data_ptr()
    run_elementwise(_lookup_product, x.numel(), *addresses)
    return result


@cached_jit
def _lookup(rank: int, size: int, shared: Any, elements: int, x: int, result: int, values: int) -> None:
    bits, stored = carray(as_pointer(x), elements, np.uint16), carray(as_pointer(result), elements, np.uint16)
    table = carray(as_pointer(values), 2**16, np.uint16)
    for i in range(elements * rank // size, elements * (rank + 1) // size):
        stored[i] = table[bits[i]]


@cached_jit
def _lookup_product(
    rank: int, size: int, shared: Any, elements: int, grad: int, x: int, result: int, slopes: int
) -> None:
    upstream, bits = carray(as_pointer(grad), elements, np.uint16), carray(as_pointer(x), elements, np.uint16)
    stored, table = carray(as_pointer(result), elements, np.uint16), carray(as_pointer(slopes), 2**16, np.float32)
    for i in range(elements * rank // size, elements * (rank + 1) // size):
        stored[i] = to_bf16(as_float(np.int32(upstream[i]) << np.int32(16)) * table[bits[i]])
