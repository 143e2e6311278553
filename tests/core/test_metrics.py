import json
import math
from pathlib import Path

import pytest

from neolm.core.metrics import points, read_metrics


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ('{"step": 1}\n{"step": 2}\n', [1, 2]),
        ('{"step": 1}\n{"step": 2, "lo', [1]),  # torn by a kill
        ('{"step": 1}\n\n[3]\nnull\n{"loss": 2}\n{"step": "3"}\n{"step": 4}', [1, 4]),
        ("[" * 100_000 + '\n{"step": 5}', [5]),
        ("", []),
    ],
)
def test_rows_are_read_and_what_is_none_is_passed_over(tmp_path: Path, text: str, steps: list[int]) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == steps
    assert read_metrics(tmp_path / "none.jsonl") == read_metrics(tmp_path) == []


def test_points_are_of_rows_with_two_finite_numbers() -> None:
    rows = json.loads(json.dumps([{"step": 1, "a": 2}, {"step": 2}, {"step": 3, "a": None}, {"step": 4, "a": "x"}]))
    rows += [{"step": 5, "a": math.nan}, {"step": 6, "a": math.inf}, {"step": 7, "a": 0.5, "b": 9}]
    assert points(rows, "a") == [(1, 2), (7, 0.5)]
    assert points(rows, "a", x="b") == [(9, 0.5)]
