"""One matrix product of few rows, for callers that are not compiled themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neolm.kernels.compiled import compiled
from neolm.kernels.packing import PANEL
from neolm.kernels.products import FORMAT, INPUTS, OUTPUTS, multiply, prepare, prepared_bytes, share
from neolm.kernels.team import meet, team


def linear(weights: NDArray[np.int64], x: Tensor) -> Tensor:
    """X W^T (M, N), fp32, without a bias, for X (M, K) in fp32 and a row of the table of weights (`products`)."""
    rows = len(x)
    prepared = np.empty((rows, prepared_bytes(int(weights[INPUTS]))), np.uint8)
    y = np.empty((rows, -(-int(weights[OUTPUTS]) // PANEL) * PANEL), np.float32)
    team().run(_linear, weights, x.detach().contiguous().numpy(), prepared, y)
    return torch.from_numpy(y)[:, : int(weights[OUTPUTS])]


@compiled
def _linear(rank: int, size: int, shared: Any, weights: Any, x: Any, prepared: Any, y: Any) -> None:
    for m in range(rank, x.shape[0], size):
        prepare(weights[FORMAT], x[m], prepared[m].ctypes.data, 0, x.shape[1])
    if meet(size, shared, 1):
        first, end = share(weights[OUTPUTS], rank, size)
        multiply(
            weights, prepared.ctypes.data, prepared.strides[0], x.shape[0], y.ctypes.data, y.strides[0], first, end
        )
