"""Energy used by a run: measured where the hardware has counters, otherwise estimated and marked as an estimate.

RAPL counts whole processors and NVML whole GPUs, so the energy of other processes is included. Where only one of the
two is available, the method names what is missing. An estimate is never added to a measurement.

RAPL are the energy counters of Intel and AMD processors under Linux (the kernel's
Documentation/power/powercap/powercap.rst). A whole processor is a zone `/sys/class/powercap/intel-rapl:N` (on AMD too)
named `package-N`. Other zones would count energy twice: `intel-rapl:N:M` are parts of a package, `psys` contains the
packages, `intel-rapl-mmio:N` is the same counter. Memory outside the package, disks and fans are not counted.

NVML has the energy counters of NVIDIA GPUs (Volta and later), read through the driver's C library (the NVML API
reference, `nvmlDeviceGetTotalEnergyConsumption`: millijoules since the driver was loaded, in 64 bits). Only the GPUs in
`CUDA_VISIBLE_DEVICES` are counted. Its numbers are taken as NVML's, which are in bus order (on machines with different
GPUs set CUDA_DEVICE_ORDER=PCI_BUS_ID, so that CUDA uses the same order). A part of a GPU (MIG) has no counter.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neolm.core.device import usable_cores

LIBRARY = "libnvidia-ml.so.1"
NAME_SIZE = 96  # bytes of a name or a UUID, NVML_DEVICE_UUID_V2_BUFFER_SIZE

# _Package power of a busy server core with its share of memory and fans. Laptops use less, so this is an upper bound.
WATTS_PER_CORE = 15.0

POLL_SECONDS = 60.0  # a package of 1 kW wraps the smallest RAPL counter (65 kJ) in 65 seconds
MEASURED, ESTIMATE = "measured by", "estimate:"


class EnergyMeter:
    """Energy used since the meter was created. Two meters on one machine both count all of its energy."""

    def __init__(self, system: Path = Path("/sys"), nvml: str = LIBRARY) -> None:
        self._began = time.monotonic()
        self._packages, self._why = _read_packages(system)
        self._gpus = _open_gpus(nvml)
        self._lock = threading.Lock()
        if self._packages:
            ended = threading.Event()
            weakref.finalize(self, ended.set)
            threading.Thread(target=_poll, args=(weakref.ref(self), ended), daemon=True).start()

    def joules(self) -> float:
        """Joules used so far. If one counter can no longer be read, all counters of its kind are dropped."""
        with self._lock:
            processors, graphics = 0.0, 0.0
            try:
                processors = sum(package.joules() for package in self._packages)
            except (OSError, ValueError):
                self._packages, self._why = [], "RAPL can no longer be read"
            try:
                graphics = sum(gpu.joules() for gpu in self._gpus)
            except OSError:
                self._gpus, self._why = [], "NVML can no longer be read"
            if self._packages or self._gpus:
                return processors + graphics
            return WATTS_PER_CORE * usable_cores() * (time.monotonic() - self._began)

    @property
    def method(self) -> str:
        """How the energy is known: `measured by ...` or `estimate: ...`."""
        counters = []
        if self._packages:
            counters.append(f"RAPL ({', '.join(package.name for package in self._packages)})")
        if self._gpus:
            counters.append(f"NVML ({', '.join(gpu.name for gpu in self._gpus)})")
        if not counters:
            rate = f"{usable_cores()} cores x {WATTS_PER_CORE:g} W x duration"
            return f"{ESTIMATE} {rate}, not measured ({self._why})"
        left_out = "" if self._packages and self._gpus else ", without " + ("GPUs" if self._packages else "processors")
        return f"{MEASURED} {' and '.join(counters)}{left_out}"

    def as_json(self, joules: float | None = None, earlier: str = "") -> dict[str, Any]:
        """`kwh` and `method`, as a manifest records them.

        `joules` replaces the meter's own reading with the sum over several sessions; `earlier` is the method of the
        earlier sessions, which is listed too.
        """
        used = self.joules() if joules is None else joules
        methods = dict.fromkeys(part for part in (*earlier.split("; "), self.method) if part)
        return {"kwh": round(used / 3.6e6, 6), "method": "; ".join(methods)}


def how_known(methods: Iterable[str]) -> str:
    """`measured`, `an estimate, not measured`, or partly so, for energy that was found by these methods."""
    text = "; ".join(methods)
    if MEASURED in text:
        return "partly measured, partly an estimate" if ESTIMATE in text else "measured"
    return "an estimate, not measured"


def _poll(meter: weakref.ref[EnergyMeter], ended: threading.Event) -> None:
    """Read a meter regularly, so that no wrap-around of a counter is missed, until the meter is deleted."""
    while not ended.wait(POLL_SECONDS):
        found = meter()
        if found is not None:
            found.joules()
        del found


class _Package:
    """Energy counter of one processor, in microjoules; it wraps around at its maximum.

    Its methods raise OSError or ValueError if the zone cannot be read, or contains no numbers.
    """

    def __init__(self, zone: Path) -> None:
        self.name = _line(zone / "name")
        self._file = zone / "energy_uj"
        self._range = int(_line(zone / "max_energy_range_uj"))
        self._last, self._used = int(_line(self._file)), 0

    def joules(self) -> float:
        """Joules used since the start. Must be read at least once per wrap-around (minutes under load)."""
        now = int(_line(self._file))
        self._used += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._used / 1e6


def _read_packages(system: Path) -> tuple[list[_Package], str]:
    """Counters of all processors under `system` (`/sys`), or none and the reason: all are readable or none is used."""
    found = []
    for zone in sorted((system / "class" / "powercap").glob("intel-rapl:*")):
        try:
            if re.fullmatch(r"intel-rapl:\d+", zone.name) and _line(zone / "name").startswith("package"):
                found.append(_Package(zone))
        except PermissionError:
            return [], "RAPL may only be read by root"
        except (OSError, ValueError):
            return [], "RAPL cannot be read"
    return found, "" if found else "no counter found"


def _line(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


class _Gpu:
    """Energy counter of one GPU, in millijoules. Its methods raise OSError if there is none or it cannot be read."""

    def __init__(self, library: Any, handle: ctypes.c_void_p, index: int) -> None:
        self._library, self._handle = library, handle
        self.name = f"GPU {index} {_text(library.nvmlDeviceGetName, handle)}".strip()
        self._start = self._millijoules()

    def joules(self) -> float:
        """Joules used since the start."""
        return (self._millijoules() - self._start) / 1000

    def _millijoules(self) -> int:
        energy = ctypes.c_ulonglong()
        _check(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(energy)))
        return energy.value


def _open_gpus(path: str) -> list[_Gpu]:
    """Counters of the GPUs that this process may use; empty without a driver, or if one of the GPUs has no counter."""
    found, count = [], ctypes.c_uint()
    try:
        library = ctypes.CDLL(path)
        _check(library.nvmlInit_v2())
        _check(library.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            _check(library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)))
            if _visible(index, _text(library.nvmlDeviceGetUUID, handle)):
                found.append(_Gpu(library, handle, index))
    except (OSError, AttributeError):  # no library, an NVML error, or a library without the function
        return []
    return found


def _visible(index: int, uuid: str) -> bool:
    """Whether `CUDA_VISIBLE_DEVICES` lets this process use a GPU: by number, or by the first part of its UUID."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return True
    names = [name.strip() for name in asked.split(",")]
    return any(name == str(index) or (name.startswith("GPU-") and uuid.startswith(name)) for name in names)


def _text(function: Any, handle: ctypes.c_void_p) -> str:
    text = ctypes.create_string_buffer(NAME_SIZE)
    _check(function(handle, text, ctypes.c_uint(NAME_SIZE)))
    return text.value.decode("utf-8", "replace")


def _check(status: int) -> None:
    if status != 0:
        raise OSError(f"NVML error {status}")
