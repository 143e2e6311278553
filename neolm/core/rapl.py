"""RAPL: the energy counters of Intel and AMD processors under Linux.

Source: the kernel's Documentation/power/powercap/powercap.rst. A whole processor is a zone
`/sys/class/powercap/intel-rapl:N` (on AMD too) named `package-N`. Other zones would count energy twice:
`intel-rapl:N:M` are parts of a package, `psys` contains the packages, `intel-rapl-mmio:N` is the same counter. Memory
outside the package, disks and fans are not counted.
"""

from __future__ import annotations

import re
from pathlib import Path


class Package:
    """Energy counter of one processor, in microjoules; it wraps around at its maximum."""

    def __init__(self, zone: Path) -> None:
        """Start counting at the present value.

        Raises:
            OSError, ValueError: the zone cannot be read, or contains no numbers.
        """
        self.name = _text(zone / "name")
        self._file = zone / "energy_uj"
        self._range = int(_text(zone / "max_energy_range_uj"))
        self._last, self._used = int(_text(self._file)), 0

    def joules(self) -> float:
        """Joules used since the start. Must be read at least once per wrap-around (minutes under load).

        Raises:
            OSError, ValueError: the counter can no longer be read.
        """
        now = int(_text(self._file))
        self._used += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._used / 1e6


def packages(system: Path) -> tuple[list[Package], str]:
    """Counters of all processors under `system` (`/sys`), or none and the reason: all are readable or none is used."""
    found = []
    for zone in sorted((system / "class" / "powercap").glob("intel-rapl:*")):
        try:
            if re.fullmatch(r"intel-rapl:\d+", zone.name) and _text(zone / "name").startswith("package"):
                found.append(Package(zone))
        except PermissionError:
            return [], "RAPL may only be read by root"
        except (OSError, ValueError):
            return [], "RAPL cannot be read"
    return found, "" if found else "no counter found"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
