"""Accelerators by name: dense half-precision speed, memory and power, as their manufacturers state them.

Left out: sparsity, which doubles a printed peak and which no training uses; other variants of the same name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """One kind of device; the sources of its numbers are printed with them."""

    title: str
    memory: int
    """Bytes."""
    flops: float
    """FLOP/s of dense bfloat16 or float16 products."""
    watts: float
    watts_source: str
    flops_source: str = "published peak"


BOARD_LIMIT = "limit of the board, without its host"

ACCELERATORS = {
    "v100": Accelerator("V100", 32 * 2**30, 125e12, 330, "measured with its host, Patterson et al. 2021"),
    "a100": Accelerator("A100 (80 GB)", 80 * 2**30, 312e12, 400, BOARD_LIMIT),
    "h100": Accelerator("H100 (SXM)", 80 * 2**30, 989e12, 700, BOARD_LIMIT),
    "h200": Accelerator("H200", 141 * 10**9, 989e12, 700, BOARD_LIMIT),
}
