"""Kernels that compute the elements of a tensor one by one, in one thread or several."""

from __future__ import annotations

from typing import Any

import torch

from neolm.kernels.thread_pool import thread_pool

MIN_ELEMENTS_PER_THREAD = 2**15  # fewer take less time than waking a thread


def run_elementwise(kernel: Any, elements: int, *arguments: Any) -> None:
    """Call `kernel(rank, size, shared, elements, *arguments)` in as many threads as pay.

    Tensors are passed as addresses: an array of each would take longer than a thousand elements.
    """
    if min(torch.get_num_threads(), elements // MIN_ELEMENTS_PER_THREAD) > 1:
        thread_pool().run(kernel, elements, *arguments)
    else:
        kernel(0, 1, None, elements, *arguments)
