"""Format results as Markdown and write them into docs/benchmarks.md."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PATH_OPTIONS = (
    "--nanogpt",
    "--environments",
    "--model",
    "--models",
    "--directory",
    "--output",
    "--docs",
    "--text",
    "--data",
    "--glue",
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Format the median and, if there are several values, minimum and maximum: `1.47 (1.46 to 1.49)`."""
    median, smallest, largest = (f"{f(values):,.{digits}f}" for f in (statistics.median, min, max))
    return f"{median} ({smallest} to {largest})" if len(values) > 1 else median


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Format the ratio of the medians of two series, and the smallest and largest ratio of single rounds."""
    each = [a / b for a, b in zip(ours, theirs, strict=False)]
    median = statistics.median(ours) / statistics.median(theirs)
    return f"{median:.2f} ({min(each):.2f} to {max(each):.2f})"


def command_line(script: str) -> str:
    """Return the command that started this run, without the paths of this machine."""
    shown, hidden = [], False
    for argument in sys.argv[1:]:
        if argument.startswith("--"):
            hidden = argument in _PATH_OPTIONS
        if not hidden:
            shown.append(argument)
    return shlex.join(["python", f"benchmarks/{script}.py", *shown])


def publish(name: str, text: str, results: Any, output: Path | None, docs: Path | None) -> None:
    """Print the section `name`; if given, write its numbers to `output` and the section into the page `docs`."""
    print(text)
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if docs:
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        page = docs.read_text(encoding="utf-8")
        head, _, rest = page.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise SystemExit(f"{docs}: the markers {begin} and {end} are missing. Add them where the section belongs")
        docs.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", encoding="utf-8")
