"""Progress of long work: a live bar on a terminal, plain lines elsewhere. Everything is printed to stderr."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_INTERVAL = 10.0  # seconds between the plain lines of one task


class Output:
    """Whether this process prints progress."""

    muted = False


def mute() -> None:
    """Print no progress from now on, because another process prints it."""
    Output.muted = True


def say(text: str) -> None:
    """Print one line, above the bar if there is one."""
    if Output.muted:
        return
    bar = Task.active
    if bar is not None and bar.rich is not None:
        bar.rich.console.print(text, highlight=False, markup=False)
    else:
        print(text, file=sys.stderr, flush=True)


class Task:
    """Progress of one piece of work, with short fields such as `loss="2.31"` next to the bar."""

    active: Task | None = None

    def __init__(self, title: str, total: float | None, unit: str, start: float = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self._base = start, start
        self._began = self._printed = time.monotonic()
        self._fields = ""
        self.rich: RichProgress | None = _rich_bar() if sys.stderr.isatty() and not Output.muted else None
        if self.rich is not None:
            self.rich.start()
            self._id = self.rich.add_task(title, total=total, completed=int(start), rate="", fields="")

    def advance(self, amount: float = 1, **fields: str) -> None:
        """Add `amount` finished units and show `fields`."""
        self.done += amount
        if fields:
            self._fields = "  ".join(f"{key} {value}" for key, value in fields.items())
        now = time.monotonic()
        if self.rich is not None:
            rate = "" if "tok/s" in fields else self._rate(now)
            self.rich.update(self._id, completed=self.done, rate=rate, fields=self._fields)
        elif now - self._printed >= PLAIN_INTERVAL and not Output.muted:
            self._printed = now
            print(self._plain(now), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self.rich is not None:
            self.rich.stop()

    def _rate(self, now: float) -> str:
        done = self.done - self._base
        rate = done / max(now - self._began, 1e-9)
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.1f} {self.unit}/s"

    def _plain(self, now: float) -> str:
        share = f" of {self.total:,.0f}" if self.total else ""
        line = f"{self.title}: {self.done:,.0f}{share} {self.unit}"
        if self.total and self.done > self._base:
            left = (self.total - self.done) * (now - self._began) / (self.done - self._base)
            line += f", {duration(left)} left"
        return f"{line}  {self._fields}".rstrip()


def _rich_bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[fields]}"),
        console=Console(stderr=True),
        refresh_per_second=5,
        transient=True,  # the result of the work is printed as a line
    )


@contextlib.contextmanager
def task(title: str, total: float | None = None, unit: str = "items", start: float = 0) -> Iterator[Task]:
    """Show the progress of the work in a `with` block; `start` units were finished before."""
    outer, current = Task.active, Task(title, total, unit, start)
    Task.active = current
    try:
        yield current
    finally:
        current.close()
        Task.active = outer


def duration(seconds: float) -> str:
    """Format seconds: `75` becomes `1m15s`."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def count(number: float) -> str:
    """Format a number: `1315575808` becomes `1.32B`."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}"


def gibibytes(size: float) -> str:
    """Format bytes: `1610612736` becomes `1.5 GiB`."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**27 else f"{size / 2**20:,.0f} MiB"


def table(rows: list[tuple[Any, ...]]) -> str:
    """Format rows of cells as aligned columns."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(str(c).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def wide_table(rows: list[tuple[str, ...]]) -> str:
    """A table whose last column wraps to the width of the terminal; without a terminal it does not wrap."""
    widths = [min(44, max(len(row[i]) for row in rows)) for i in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    room = max(30, columns - indent)
    lines = []
    for row in rows:
        start = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + "  "
        meaning = textwrap.wrap(row[-1], room) or [""]
        lines += [start + meaning[0], *(" " * indent + line for line in meaning[1:])]
    return "\n".join(line.rstrip() for line in lines)
