"""Numerical settings of torch during a training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def numerics(deterministic: bool, tf32: bool) -> Iterator[None]:
    """Use only deterministic operations, or allow TF32 in float32 products, inside the `with` block.

    Enter it before the first matrix product on a GPU: cuBLAS reads its workspace setting only once. An operation
    without a deterministic implementation raises a RuntimeError.
    """
    precision, algorithms = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        memory.fill_uninitialized_memory = False  # no operation here reads memory that it did not write
        torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(algorithms)
        memory.fill_uninitialized_memory = filled


def sum_dtype(device: torch.device) -> torch.dtype:
    """Type of sums on `device`: float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
