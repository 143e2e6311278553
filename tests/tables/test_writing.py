"""Tables with added columns: rows keep their order and cells; work that was killed ends bit for bit the same."""

from __future__ import annotations

import csv
import datetime
import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import extension
from tables.extension import ADDED, extend

from neolm.core.errors import InputError
from neolm.tables.extend import check_target, extend_table
from neolm.tables.table import open_table
from neolm.tables.writer import write_table

FORMATS = ["csv", "tsv", "jsonl", "parquet"]
CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), st.sampled_from(FORMATS))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], suffix: str
) -> None:
    target = tmp_path_factory.mktemp("round") / f"table.{suffix}"
    given_rows: list[Mapping[str, Any]] = [{"text": one, "label": other} for one, other in rows]
    write_table(target, lambda: iter(given_rows), ["text", "label"], {})
    assert [row.values for row in open_table(target, header=True).rows()] == given_rows
    if suffix in ("csv", "tsv"):
        with target.open(newline="", encoding="utf-8") as file:
            theirs = list(csv.reader(file, delimiter="," if suffix == "csv" else "\t"))
        assert theirs == [["text", "label"], *map(list, rows)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "text"), *((n, f"text {n}, more" + " and more" * (n % 5)) for n in range(100))]
        )
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_keep_their_order_and_cells(source: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out.{suffix}"
    summary = extend(source, target)
    assert (summary.rows, summary.failed, summary.reasons[0]) == (100, 10, "line 10: it has a ten")
    assert str(summary).endswith("; and 5 more")
    rows = [row.values for row in open_table(target).rows()]
    assert [row["id"] for row in rows] == [str(n) for n in range(100)]
    numbers = rows[0]["words"], rows[0]["share"], rows[0]["masks"]
    if suffix in ("csv", "tsv"):
        assert numbers == ("3", str(3 / 7), '[{"token": "text"}]')
        assert rows[8] == {
            "id": "8",
            "text": rows[8]["text"],
            "words": "",
            "share": "",
            "masks": "",
            "error": "it has a ten",
        }
    else:
        assert numbers[:2] == (3, 3 / 7)
        assert rows[8]["error"] == "it has a ten"
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_killed_work_ends_bit_for_bit_the_same(source: Path, tmp_path: Path, suffix: str) -> None:
    target, whole = tmp_path / f"out.{suffix}", tmp_path / f"whole.{suffix}"
    extend(source, whole)
    journal = tmp_path / f".out.{suffix}.journal"
    script = [sys.executable, str(Path(extension.__file__)), str(source), str(target), "0.02"]
    sizes = [0]
    for _ in range(2):
        with subprocess.Popen(script, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (not journal.exists() or journal.stat().st_size <= sizes[-1] + 100):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
        sizes.append(journal.stat().st_size)
        assert not target.exists()
    done = subprocess.run([*script[:-1], "0"], capture_output=True, text=True, check=True)
    assert "rows were done before; resuming at row" in done.stderr
    assert target.read_bytes() == whole.read_bytes()
    assert not journal.exists()


def journal_of(source: Path, target: Path) -> Path:
    """A journal of 24 rows, whose work was stopped by an error."""
    calls = []

    def compute(rows: Any) -> Any:
        calls.append(rows)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return extension.computed(rows)

    with pytest.raises(KeyboardInterrupt):
        extend_table(open_table(source), target, ADDED, compute, {"model": "test"}, 8)
    return target.with_name(f".{target.name}.journal")


@pytest.mark.parametrize(
    ("cut", "rows"), [(0, 24), (5, 16), (400, 16), (10_000, 0)], ids=["whole", "torn", "batches", "nothing"]
)
def test_a_torn_journal_is_cut_to_its_last_whole_batch(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: int, rows: int
) -> None:
    target, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    extend(source, whole)
    journal = journal_of(source, target)
    data = journal.read_bytes()
    journal.write_bytes(data[: max(0, len(data) - cut)])
    capsys.readouterr()
    summary = extend(source, target)
    assert (summary.rows, summary.failed) == (100, 10)
    assert target.read_bytes() == whole.read_bytes()
    err = capsys.readouterr().err
    assert f"{rows} rows were done before; resuming at row {rows + 1}" in err if rows else "before" not in err


def test_zeros_in_a_journal_after_a_power_cut_are_computed_again(source: Path, tmp_path: Path) -> None:
    target, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    extend(source, whole)
    journal = journal_of(source, target)
    data = bytearray(journal.read_bytes())
    data[-1200:-800] = bytes(400)
    journal.write_bytes(data)
    extend(source, target)
    assert target.read_bytes() == whole.read_bytes()


def test_other_work_starts_anew_and_says_so(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.jsonl"
    journal_of(source, target)
    source.write_text(source.read_text().replace("text 3,", "word 3,"))
    extend(source, target)
    assert "the input, the model or a setting has changed since it was begun; starting anew" in capsys.readouterr().err
    assert json.loads(target.read_text().splitlines()[3])["masks"] == [{"token": "word"}]


def test_two_processes_do_not_write_one_file(source: Path, tmp_path: Path) -> None:
    with (tmp_path / ".out.csv.journal").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"out\.csv: another process is writing this file"):
            extend(source, tmp_path / "out.csv")


def test_a_given_column_keeps_its_cells_under_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.csv").write_text("text,words\na b,seven\nc d,eight\n")
    extend(tmp_path / "in.csv", tmp_path / "out.csv")
    assert "the column 'words' is called 'given_words' in the output" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text().splitlines()[:2] == [
        "text,given_words,words,share,masks,error",
        f'a b,seven,2,{2 / 7},"[{{""token"": ""a""}}]",',
    ]


def test_parquet_keeps_the_types_of_the_given_columns(tmp_path: Path) -> None:
    when = [datetime.datetime(2026, 11, day, tzinfo=datetime.UTC) for day in (1, 2)]
    given_columns = {"text": ["a b", "c"], "when": when, "list": [[1], []], "raw": [b"\xff", None], "words": [1, 2]}
    pq.write_table(pa.table(given_columns), tmp_path / "in.parquet")
    extend(tmp_path / "in.parquet", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == ["text", "when", "list", "raw", "given_words", *ADDED]
    assert found.schema.field("when").type == pa.timestamp("us", tz="UTC")
    assert found["list"].to_pylist() == [[1], []]
    assert [str(found.schema.field(name).type) for name in ADDED] == ["int64", "double", "string", "string"]
    extend(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert (row["when"], row["list"], row["raw"]) == ("2026-11-01 00:00:00+00:00", [1], "\\xff")


def test_json_lines_with_other_keys_become_one_table(tmp_path: Path) -> None:
    lines = ['{"text": "a b", "n": 1}', '{"text": "c", "m": 123456789012345678901}', '{"text": "d", "n": 2.5}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    extend(tmp_path / "in.jsonl", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "text,n,words,share,masks,m"
    extend(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert (found["n"], found["m"]) == ([1.0, None, 2.5], [None, "123456789012345678901", None])


def test_files_that_were_not_made_here_are_not_replaced(source: Path, tmp_path: Path) -> None:
    table = open_table(source)
    for suffix in FORMATS:
        target = tmp_path / f"out.{suffix}"
        check_target(table, target, ADDED)
        extend(source, target)
        check_target(table, target, ADDED)
    for name, content in (("other.csv", "a,b\n1,2\n"), ("other.jsonl", "text\n"), ("other.parquet", "text")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="this file has no column 'words', so it is not replaced"):
            check_target(table, tmp_path / name, ADDED)
    with pytest.raises(InputError, match="input and output are the same file"):
        check_target(table, source, ADDED)
    with pytest.raises(InputError, match="tables are written to"):
        check_target(table, tmp_path / "out.txt", ADDED)
    with pytest.raises(InputError, match="there is no such directory"):
        check_target(table, tmp_path / "none" / "out.csv", ADDED)
