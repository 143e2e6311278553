"""RAPL: the energy counters that Intel's and AMD's processors keep of themselves, as Linux shows them.

Source: the kernel's Documentation/power/powercap/powercap.rst. A whole processor is a zone
`/sys/class/powercap/intel-rapl:N` (on AMD too) named `package-N`. Nothing else is read, because it would be counted
twice: `intel-rapl:N:M` are parts of a package, `psys` holds the packages, `intel-rapl-mmio:N` is the same counter. So
memory outside the package, disks and fans are left out.
"""

from __future__ import annotations

import re
from pathlib import Path


class Package:
    """One processor's counter of microjoules, which starts again from zero at its largest value."""

    def __init__(self, zone: Path) -> None:
        """Start to count at the zone's present value.

        Raises:
            OSError, ValueError: the zone cannot be read, or holds no numbers.
        """
        self.name = _text(zone / "name")
        self._file = zone / "energy_uj"
        self._range = int(_text(zone / "max_energy_range_uj"))
        self._last, self._used = int(_text(self._file)), 0

    def joules(self) -> float:
        """Joules used since the start, if it is asked at least once a round of the counter (minutes under load).

        Raises:
            OSError, ValueError: the counter can no longer be read.
        """
        now = int(_text(self._file))
        self._used += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._used / 1e6


def packages(system: Path) -> tuple[list[Package], str]:
    """The processors' counters under `system`, usually `/sys`; or none, and why: all are readable or none is used."""
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
