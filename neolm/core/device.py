"""The machine: its hardware, and the choice of device, precision and compilation, each with its reason."""

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

from neolm.core.errors import SettingError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Choice:
    """A decision and its reason; both are printed and recorded."""

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


def choose_device(request: str = "auto") -> Choice:
    """Resolve `auto`, `cpu`, `cuda`, `cuda:N` or `mps` to an available device.

    Raises:
        SettingError: the requested device is not available.
    """
    import torch

    if request == "auto":
        if torch.cuda.is_available():
            return Choice("cuda", torch.cuda.get_device_name())
        threads = torch.get_num_threads()
        return Choice("cpu", f"no GPU found; {threads} thread{'s' if threads > 1 else ''}")
    if request.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise SettingError(
            "device", f"'{request}' is unknown; devices are auto, cpu, cuda, cuda:1 (or another) and mps"
        )
    try:
        torch.empty(1, device=torch.device(request))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0].rstrip(".")
        raise SettingError("device", f"'{request}' is not available: {reason}") from None
    return Choice(request, "as requested")


def choose_precision(request: str, device: str) -> Choice:
    """Resolve `auto`, `float32`, `bfloat16` or `float16` to the precision of matrix products on `device`.

    bfloat16 is chosen where the hardware supports it: AMX or AVX512-BF16 on a CPU, compute capability 8.0 on a GPU.
    Elsewhere it is emulated, several times slower than float32.
    """
    import torch

    if request != "auto":
        return Choice(request, "as requested")
    if device.startswith("cuda"):
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return Choice("bfloat16", "the GPU supports it natively")
        return Choice("float32", "this GPU has no native bfloat16")
    if device == "cpu":
        for flag, name in (("amx_bf16", "AMX bf16"), ("avx512_bf16", "AVX512-BF16")):
            if flag in cpu_flags():
                return Choice("bfloat16", f"{name} found")
        return Choice("float32", "this CPU has neither AMX nor AVX512-BF16")
    return Choice("float32", f"bfloat16 on {device} is untested")


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the CPU; empty where the operating system does not list them."""
    return frozenset(_proc("cpuinfo", "flags").split())


def cpu_name() -> str:
    """Name of the processor."""
    return _proc("cpuinfo", "model name") or platform.processor() or platform.machine()


def _proc(file: str, key: str) -> str:
    """The value of the first line `key: value` in a file of Linux's /proc; empty if there is none."""
    return next((line.partition(":")[2].strip() for line in _lines(Path("/proc", file)) if line.startswith(key)), "")


def memory_bytes() -> tuple[int, int]:
    """(total, available) memory in bytes."""
    total, available = _proc("meminfo", "MemTotal:"), _proc("meminfo", "MemAvailable:")  # such as `32 kB`
    if total and available:
        return int(total.split()[0]) * 1024, int(available.split()[0]) * 1024
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages, pages


MEMORY_SHARE = 0.8  # of free memory, for models and their KV caches


def free_memory(device: str = "cpu") -> int:
    """Free bytes of the device's memory; on a CPU, at most what the limits of container and process leave."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    limits = (memory_bytes()[1], memory_left(), address_space_left())
    return min(left for left in limits if left is not None)


def memory_left(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still allocate within Linux's control groups, which containers use; None: no limit.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. Inactive file pages count as
    used there but are reclaimed on demand, so they count as free here.
    """
    left = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", maxsplit=2)
        if controllers == "":
            root, limit, used, idle = groups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            idle = "total_inactive_file"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):  # a limit of a group holds for all groups in it
            found = [next(iter(_lines(folder / name)), "") for name in (limit, used)]
            if all(text.isdigit() for text in found):
                statistics = dict(line.split()[:2] for line in _lines(folder / "memory.stat"))
                left.append(int(found[0]) - int(found[1]) + int(statistics.get(idle, 0)))
            if folder == root:
                break
    return max(0, min(left)) if left else None


def address_space_left() -> int | None:
    """Bytes that the process may still map under the shell's `ulimit -v`; None: no limit."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    mapped = next(iter(_lines(Path("/proc/self/statm"))), "0").split()[0]  # pages
    return None if limit == resource.RLIM_INFINITY else max(0, limit - int(mapped) * resource.getpagesize())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compiler() -> str | None:
    """Path of the C++ compiler that `torch.compile` uses on a CPU, or None."""
    return shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")


def choose_compile(request: bool | str, device: str, precision: str) -> Choice:
    """Resolve `auto`, true or false to `on` or `off`: whether torch.compile compiles the model on `device`.

    Raises:
        SettingError: compilation was requested, but there is no C++ compiler, or it is unsafe: the code that torch 2.13
            generates for bfloat16 on a CPU writes beyond its buffers (docs/log.md).
    """
    if request is False:
        return Choice("off", "as requested")
    if request is True:
        if device == "cpu" and precision == "bfloat16":
            raise SettingError(
                "compile", "torch.compile corrupts memory in bfloat16 on a CPU. Use auto or false, or precision=float32"
            )
        if device == "cpu" and compiler() is None:
            raise SettingError("compile", "there is no C++ compiler (g++ or clang++). Use auto or false")
        return Choice("on", "as requested")
    if device.startswith("cuda"):
        return Choice("on", "faster on a GPU")
    return Choice("off", f"no speedup was measured on {device}")


def peak_memory(device: str) -> int:
    """Peak memory of this process in bytes since `reset_peak_memory`: of the GPU on CUDA, else of the host."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    recorded = _proc("self/status", "VmHWM:")  # such as `32 kB`
    if recorded:
        return int(recorded.split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # in KiB on other systems


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of `peak_memory` (on GPUs and on Linux; elsewhere it cannot be reset)."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # proc(5): resets VmHWM


def keep_freed_memory(largest: int = 2**30) -> None:
    """Make glibc's allocator keep freed blocks of up to `largest` bytes, since a training step allocates them again.

    By default each block is returned to the kernel, and its pages cost a page fault each when they are allocated again.
    Larger blocks are still returned, so that they do not fragment the heap. Without glibc this does nothing.
    """
    _mallopt({_M_MMAP_THRESHOLD: largest, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26})


def share_freed_memory(arenas: int = 2) -> None:
    """Make glibc's allocator use at most `arenas` heaps for all threads: what one thread frees, others may allocate.

    By default there are up to eight for each core, each of which keeps what it once held. To be called before the first
    threads start. Without glibc this does nothing.
    """
    _mallopt({_M_ARENA_MAX: arenas})


def keep_few_kernels(most: int = 256) -> None:
    """Make torch keep the oneDNN kernels of the last `most` shapes of products on a CPU, and not of the last 1,024.

    A kernel takes half a megabyte, since both oneDNN and torch's binding of it keep one. Kernels that come and go leave
    holes in the heap too. It has no effect after the first product of the process. The user's own variables stay.
    """
    for variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(variable, str(most))


def _mallopt(options: dict[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in options.items():
            libc.mallopt(option, value)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8  # of glibc's malloc.h


def matrix_ceiling(device: str, dtype: torch.dtype, size: int = 2048, seconds: float = 0.4) -> float:
    """Highest FLOP/s of a `size`-cubed matrix product, measured for about `seconds`: the machine's present ceiling."""
    import torch

    generator = torch.Generator(device).manual_seed(0)  # the numbers of the training must not depend on this one
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    product = torch.empty(size, size, device=device, dtype=dtype)
    best, deadline = float("inf"), None
    while deadline is None or time.perf_counter() < deadline:
        start = time.perf_counter()
        torch.matmul(a, b.t(), out=product)
        if device != "cpu":
            torch.accelerator.synchronize(device)
        if deadline is None:
            deadline = time.perf_counter() + seconds  # the first product only warms up
        else:
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best if best < float("inf") else 0.0


@cache
def environment() -> dict[str, Any]:
    """Facts for the manifest: interpreter, platform, processor, and the version of torch if it is loaded."""
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
