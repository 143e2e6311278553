"""Accelerators by name: half-precision speed, memory, power and interconnect, as their manufacturers state them.

Bandwidths are those of one direction, for one device. Left out: sparsity, which doubles a printed peak and which no
training uses; other variants of the same name.
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
    link: float = 0.0
    """Bytes per second between devices of a node; 0: not known."""
    network: float = 0.0
    """Bytes per second between nodes, for each device; 0: not known."""
    bandwidth_source: str = "not known"


BOARD_LIMIT = "limit of the board, without its host"
A100 = (300e9, 25e9, "NVLink 3 (NVIDIA A100 data sheet); 8 x HDR InfiniBand a node of 8 (DGX A100 data sheet)")
H100 = (450e9, 50e9, "NVLink 4 (NVIDIA H100 data sheet); 8 x NDR InfiniBand a node of 8 (DGX H100 data sheet)")

ACCELERATORS = {
    "v100": Accelerator(
        "V100",
        32 * 2**30,
        125e12,
        330,
        "measured with its host, Patterson et al. 2021",
        link=150e9,
        network=6.25e9,
        bandwidth_source="NVLink 2 (NVIDIA V100 data sheet); 4 x EDR InfiniBand a node of 8 (DGX-1 data sheet)",
    ),
    "a100-40gb": Accelerator("A100 (40 GB)", 40 * 2**30, 312e12, 400, BOARD_LIMIT, "published peak", *A100),
    "a100": Accelerator("A100 (80 GB)", 80 * 2**30, 312e12, 400, BOARD_LIMIT, "published peak", *A100),
    "h100": Accelerator("H100 (SXM)", 80 * 2**30, 989e12, 700, BOARD_LIMIT, "published peak", *H100),
    "h200": Accelerator("H200", 141 * 10**9, 989e12, 700, BOARD_LIMIT, "published peak", *H100),
}
