"""Memory limits of Linux control groups, which containers use.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. Inactive file pages count as used
there but are reclaimed on demand, so they count as free here.
"""

from __future__ import annotations

from pathlib import Path


def memory_left(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process may still allocate; None without a limit."""
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


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
