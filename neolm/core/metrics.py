"""Reading `metrics.jsonl`: one JSON object for each logged step and for each validation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a metrics file in order. Incomplete lines are skipped; a missing file has no rows."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), (int, float)):
            rows.append(row)
    return rows


def points(rows: Sequence[Mapping[str, Any]], key: str, x: str = "step") -> list[tuple[float, float]]:
    """`(x, key)` of the rows that have finite numbers for both, such as the loss over the steps."""
    pairs = ((row.get(x), row.get(key)) for row in rows)
    numbers = [(a, b) for a, b in pairs if isinstance(a, (int, float)) and isinstance(b, (int, float))]
    return [(float(a), float(b)) for a, b in numbers if math.isfinite(a) and math.isfinite(b)]
