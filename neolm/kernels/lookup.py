"""Functions of one bfloat16 number as tables of their 65,536 values, and the products with their derivatives.

Reading a table is faster than any arithmetic for a function with an exponential: activations are near zero, so the
entries that are read fit into a core's first cache. The values are correctly rounded, since the tables are.

An element depends on nothing but its input, so the results are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from neolm.kernels.jit import cached_jit
from neolm.kernels.mathematics import as_float, to_bf16
from neolm.kernels.thread_pool import thread_pool

MIN_ELEMENTS_PER_THREAD = 2**15  # fewer take less time than waking a thread


def lookup(x: Tensor, values: Tensor) -> Tensor:
    """The bfloat16 `values` (65,536) at the bits of `x`, contiguous bfloat16 on the CPU of any shape."""
    result = torch.empty_like(x)
    _run(_lookup, x, result, values)
    return result


def lookup_product(grad: Tensor, x: Tensor, slopes: Tensor) -> Tensor:
    """`grad` times the float32 `slopes` (65,536) at the bits of `x`; both contiguous bfloat16 on the CPU."""
    result = torch.empty_like(x)
    _run(_lookup_product, grad, x, result, slopes)
    return result


def _run(kernel: Any, *tensors: Tensor) -> None:
    arrays = [_array(tensor) for tensor in tensors]
    threads = min(torch.get_num_threads(), arrays[0].size // MIN_ELEMENTS_PER_THREAD)
    if threads > 1:
        thread_pool().run(kernel, *arrays)
    else:
        kernel(0, 1, None, *arrays)


def _array(x: Tensor) -> Any:
    flat = x.detach().view(-1)
    return (flat.view(torch.uint16) if x.dtype == torch.bfloat16 else flat).numpy()


@cached_jit
def _lookup(rank: int, size: int, shared: Any, x: Any, result: Any, values: Any) -> None:
    for i in range(x.size * rank // size, x.size * (rank + 1) // size):
        result[i] = values[x[i]]


@cached_jit
def _lookup_product(rank: int, size: int, shared: Any, grad: Any, x: Any, result: Any, slopes: Any) -> None:
    for i in range(x.size * rank // size, x.size * (rank + 1) // size):
        result[i] = to_bf16(as_float(np.int32(grad[i]) << np.int32(16)) * slopes[x[i]])
