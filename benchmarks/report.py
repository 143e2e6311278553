"""Results as Markdown, and their place in docs/benchmarks.md."""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PLACES = ("--nanogpt", "--environments", "--model", "--models", "--directory", "--output", "--docs", "--text")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median and, where there are several, the least and the greatest: `1.47 (1.46 to 1.49)`."""
    middle, least, greatest = (f"{f(values):,.{digits}f}" for f in (statistics.median, min, max))
    return f"{middle} ({least} to {greatest})" if len(values) > 1 else middle


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratio of the medians of two series that were measured in turn, and the least and greatest of each turn."""
    each = [a / b for a, b in zip(ours, theirs, strict=False)]
    middle = statistics.median(ours) / statistics.median(theirs)
    return f"{middle:.2f} ({min(each):.2f} to {max(each):.2f})"


def command_line(script: str) -> str:
    """How this run was started, without what is only of this machine: where things lie."""
    shown, hidden = [], False
    for argument in sys.argv[1:]:
        if argument.startswith("--"):
            hidden = argument in _PLACES
        if not hidden:
            shown.append(argument)
    return shlex.join(["python", f"benchmarks/{script}.py", *shown])


def publish(name: str, text: str, results: Any, output: Path | None, docs: Path | None) -> None:
    """Print the section `name`; write its numbers to `output` and put it into the page `docs`, where given."""
    print(text)
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if docs:
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        page = docs.read_text(encoding="utf-8")
        head, _, rest = page.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise SystemExit(f"{docs} has no place for this section, marked {begin} and {end}")
        docs.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", encoding="utf-8")
