"""One matrix product of few rows, callable from Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neolm.kernels import matmul
from neolm.kernels.jit import cached_jit
from neolm.kernels.packing import PANEL
from neolm.kernels.thread_pool import barrier, thread_pool


def linear(weights: NDArray[np.int64], x: Tensor) -> Tensor:
    """Return X W^T (M, N) in fp32, without bias, for X (M, K) in fp32 and weights as in `neolm.kernels.matmul`."""
    rows = len(x)
    packed = np.empty((rows, matmul.packed_activation_bytes(int(weights[matmul.INPUTS]))), np.uint8)
    y = np.empty((rows, -(-int(weights[matmul.OUTPUTS]) // PANEL) * PANEL), np.float32)
    thread_pool().run(_linear, weights, x.detach().contiguous().numpy(), packed, y)
    return torch.from_numpy(y)[:, : int(weights[matmul.OUTPUTS])]


@cached_jit
def _linear(rank: int, size: int, shared: Any, weights: Any, x: Any, packed: Any, y: Any) -> None:
    for m in range(rank, x.shape[0], size):
        matmul.pack_activations(weights[matmul.FORMAT], x[m], packed[m].ctypes.data, 0, x.shape[1])
    if barrier(size, shared, 1):
        first, end = matmul.thread_outputs(weights[matmul.OUTPUTS], rank, size)
        matmul.matmul(
            weights, packed.ctypes.data, packed.strides[0], x.shape[0], y.ctypes.data, y.strides[0], first, end
        )
