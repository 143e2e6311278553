"""What this machine is, what it can do, and what a run will use of it: each choice comes with its reason."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neolm.core.container import memory_left
from neolm.core.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Choice:
    """A decision and why it was taken; both are printed and recorded."""

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


def choose_device(request: str = "auto") -> Choice:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` to a device that is there.

    Raises:
        InputError: the requested device is not there.
    """
    import torch

    if request == "auto":
        if torch.cuda.is_available():
            return Choice("cuda", torch.cuda.get_device_name())
        threads = torch.get_num_threads()
        return Choice("cpu", f"no GPU found; {threads} thread{'s' if threads > 1 else ''}")
    try:
        device = torch.device(request)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
        raise InputError(f"device '{request}' cannot be used here: {reason}") from None
    return Choice(request, "as asked")


def choose_precision(request: str, device: str) -> Choice:
    """`auto`, `float32`, `bfloat16` or `float16` to the precision of matrix products on `device`.

    bfloat16 is chosen where the hardware multiplies it: AMX or AVX512-BF16 on a CPU, compute capability 8.0 on a GPU.
    Elsewhere it is emulated, several times slower than float32.
    """
    import torch

    if request != "auto":
        return Choice(request, "as asked")
    if device.startswith("cuda"):
        if torch.cuda.get_device_capability() >= (8, 0):
            return Choice("bfloat16", "the GPU multiplies it natively")
        return Choice("float32", "this GPU has no native bfloat16")
    if device == "cpu":
        flags = cpu_flags()
        if "amx_bf16" in flags:
            return Choice("bfloat16", "AMX bf16 found")
        if "avx512_bf16" in flags:
            return Choice("bfloat16", "AVX512-BF16 found")
        return Choice("float32", "this CPU has neither AMX nor AVX512-BF16")
    return Choice("float32", f"bfloat16 on {device} is untested")


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets that the kernel reports; empty where it does not."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def cpu_name() -> str:
    """The processor's own name for itself."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    line = next((line for line in text.splitlines() if line.startswith("model name")), "")
    return line.partition(":")[2].strip() or platform.machine()


def memory_bytes() -> tuple[int, int]:
    """(total, available) memory in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        table = {key: int(rest.split()[0]) * 1024 for key, _, rest in (line.partition(":") for line in lines)}
        return table["MemTotal"], table["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return total, total


def free_memory(device: str = "cpu") -> int:
    """Bytes of the device's memory that are free now; on a CPU, as many as the container leaves if it is in one."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    free, allowed = memory_bytes()[1], memory_left()
    return free if allowed is None else min(free, allowed)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiler() -> str | None:
    """The C++ compiler that `torch.compile` would use on a CPU, or None."""
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")


def choose_compile(request: bool | str, device: str, precision: str) -> Choice:
    """`auto`, true or false to whether the model is compiled with torch.compile on `device`: `on` or `off`.

    Raises:
        InputError: it was asked for, but there is no compiler, or none that is safe: the code that torch 2.13 makes for
            bfloat16 on a CPU writes beyond its buffers (docs/log.md).
    """
    if request is False:
        return Choice("off", "as asked")
    if request is True:
        if device == "cpu" and precision == "bfloat16":
            raise InputError(
                "pretrain.compile: torch.compile corrupts memory in bfloat16 on a CPU; set it to auto or false, or set "
                "pretrain.precision=float32"
            )
        if device == "cpu" and compiler() is None:
            raise InputError("pretrain.compile: there is no C++ compiler (g++ or clang++); set it to auto or false")
        return Choice("on", "as asked")
    if device.startswith("cuda"):
        return Choice("on", "on a GPU it pays")
    return Choice("off", f"on {device} it has not been found to pay")


def peak_memory(device: str) -> int:
    """The most bytes that this process has held since `forget_peak_memory`: of the GPU's memory, else the machine's."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere it is in KiB


def forget_peak_memory(device: str) -> None:
    """Let `peak_memory` count from now on, where the system can (a GPU, Linux)."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # proc(5): resets VmHWM


def keep_freed_memory(largest: int = 2**30) -> None:
    """Tell glibc's allocator to keep freed blocks of up to `largest` bytes: a training step takes the same ones again.

    By default each goes back to the kernel, whose fresh pages then cost a fault each. Larger blocks do go back, so that
    they leave no holes between those that stay. Without glibc this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in ((_M_MMAP_THRESHOLD, largest), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
        libc.mallopt(option, value)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


def matrix_ceiling(device: str, dtype: torch.dtype, size: int = 2048, seconds: float = 0.4) -> float:
    """The best FLOP/s of a `size`-cubed matrix product seen in about `seconds`: what this machine can do right now."""
    import torch

    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty(size, size, device=device, dtype=dtype)
    best, deadline = float("inf"), None
    while deadline is None or time.perf_counter() < deadline:
        start = time.perf_counter()
        torch.matmul(a, b.t(), out=product)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if deadline is None:
            deadline = time.perf_counter() + seconds  # the first product only warms up
        else:
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best if best < float("inf") else 0.0


@cache
def environment() -> dict[str, Any]:
    """Facts about this process for the manifest: interpreter, platform, processor, and torch where it is loaded."""
    total, _ = memory_bytes()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_gib": round(total / 2**30, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch"] = torch.__version__
        facts["threads"] = torch.get_num_threads()
    return facts
