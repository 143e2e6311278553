"""The energy that work on this machine takes: measured where the hardware counts it, else an estimate that says so.

RAPL counts whole processors and NVML whole GPUs, so what other processes do meanwhile is in it; where only one of the
two is there, the other's share is missing and the method says so. An estimate never mixes with a measurement.
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

# Package power of a busy server core with its share of memory and fans; laptops use less, so this errs upwards.
WATTS_PER_CORE = 15.0

ROUND_SECONDS = 60.0  # a package of 1 kW goes through the smallest RAPL counter (65 kJ) in 65 seconds
MEASURED, ESTIMATE = "measured by", "estimate:"


class EnergyMeter:
    """Counts from when it is made. Of two meters at one time on one machine, each counts all of it."""

    def __init__(self, system: Path = Path("/sys"), nvml: str = LIBRARY) -> None:
        """Look for counters under `system` and in the library `nvml`."""
        self._began = time.monotonic()
        self._packages, self._why = packages(system)
        self._gpus = gpus(nvml)
        self._lock = threading.Lock()
        if self._packages:
            ended = threading.Event()
            weakref.finalize(self, ended.set)
            threading.Thread(target=_keep_round, args=(weakref.ref(self), ended), daemon=True).start()

    def joules(self) -> float:
        """Joules used so far. If a counter can no longer be read, the rest of its kind goes with it."""
        with self._lock:
            processors, graphics = 0.0, 0.0
            try:
                processors = sum(package.joules() for package in self._packages)
            except (OSError, ValueError):
                self._packages, self._why = [], "RAPL stopped answering"
            try:
                graphics = sum(gpu.joules() for gpu in self._gpus)
            except OSError:
                self._gpus, self._why = [], "NVML stopped answering"
            if self._packages or self._gpus:
                return processors + graphics
            return WATTS_PER_CORE * usable_cores() * (time.monotonic() - self._began)

    @property
    def method(self) -> str:
        """`measured by` what, or `estimate:` how."""
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
        """As a manifest has it: `kwh` and `method`.

        `joules` is what to state instead of this meter's own, the sum over several sessions; `earlier` is the method
        of the sessions before this one, which is told too.
        """
        used = self.joules() if joules is None else joules
        methods = dict.fromkeys(part for part in (*earlier.split("; "), self.method) if part)
        return {"kwh": round(used / 3.6e6, 6), "method": "; ".join(methods)}


def how_known(methods: Iterable[str]) -> str:
    """`measured`, `an estimate, not measured`, or that it is partly so, of what was found by these methods."""
    text = "; ".join(methods)
    if MEASURED in text:
        return "partly measured, partly an estimate" if ESTIMATE in text else "measured"
    return "an estimate, not measured"


def _keep_round(meter: weakref.ref[EnergyMeter], ended: threading.Event) -> None:
    """Ask a meter now and then, so that no round of a counter is missed; until the meter is gone."""
    while not ended.wait(ROUND_SECONDS):
        found = meter()
        if found is not None:
            found.joules()
        del found
