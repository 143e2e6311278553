"""Switches of torch that change how numbers come out, set for one training and put back after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def numerics(deterministic: bool, tf32: bool) -> Iterator[None]:
    """Within the block, products of float32 may be rounded to TF32, or only deterministic operations run.

    An operation without a deterministic form then raises a RuntimeError instead of running.
    """
    precision, algorithms = torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for a fixed workspace
        memory.fill_uninitialized_memory = False  # no operation here reads what it did not write
        torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(algorithms)
        memory.fill_uninitialized_memory = filled
