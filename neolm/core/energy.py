"""Energy used by a run: measured where the hardware has counters, otherwise estimated and marked as an estimate.

RAPL counts whole processors and NVML whole GPUs, so the energy of other processes is included. Where only one of the
two is available, the method names what is missing. An estimate is never added to a measurement.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neolm.core.device import usable_cores
from neolm.core.nvml import LIBRARY, gpus
from neolm.core.rapl import packages

# Package power of a busy server core with its share of memory and fans. Laptops use less, so this is an upper bound.
WATTS_PER_CORE = 15.0

POLL_SECONDS = 60.0  # a package of 1 kW wraps the smallest RAPL counter (65 kJ) in 65 seconds
MEASURED, ESTIMATE = "measured by", "estimate:"


class EnergyMeter:
    """Energy used since the meter was created. Two meters on one machine both count all of its energy."""

    def __init__(self, system: Path = Path("/sys"), nvml: str = LIBRARY) -> None:
        """Open the counters under `system` and in the library `nvml`."""
        self._began = time.monotonic()
        self._packages, self._why = packages(system)
        self._gpus = gpus(nvml)
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
