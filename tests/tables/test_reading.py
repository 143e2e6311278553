"""Tables are read right, whatever wrote them; what is wrong with them is said on one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.core.chunks import read_lines
from neolm.core.delimited import UNCLOSED, read_records
from neolm.core.errors import InputError
from neolm.core.text_encoding import MAX_ROW_BYTES
from neolm.tables.table import Table, open_table

HEADER = "text,label\n"
ROWS = 'one river,a\n"two, ""small"" boats",b\n'


def written(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cells(table: Table) -> list[list[str]]:
    return [list(row.values.values()) for row in table.rows()]


def problems(table: Table) -> dict[int, str]:
    return {row.line: row.problem for row in table.rows() if row.problem}


# --- CSV against Python's csv ---------------------------------------------------------------------------------------

CELL = st.text(st.sampled_from('ab ,;"\n\té🎉'), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.integers(1, 7),
)
def test_records_are_those_of_python_s_csv(
    rows: list[list[str]], delimiter: str, end: str, quoting: int, chunk: int
) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(rows)
    data = file.getvalue().encode()
    chunks = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    records = list(read_records(read_lines(chunks, 2**20), delimiter, quoted=True))
    theirs = csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=delimiter)
    assert [record.cells for record in records] == [row for row in theirs if row] == rows
    assert not any(record.problem for record in records)
    assert [record.line for record in records] == sorted({record.line for record in records})


WORDS = st.lists(st.sampled_from(["river", "went, slowly", "a;b", 'the "boat"', "rain\nand rain", "é"]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(WORDS.map(" ".join), st.sampled_from(["good", "bad"])), min_size=1, max_size=30),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    st.booleans(),
)
def test_delimiter_header_and_encoding_are_found(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    delimiter: str,
    encoding: str,
    header: bool,
) -> None:
    rows += [("the river went by", "good"), ("the rain went by", "bad"), ("a boat went by", "good")]
    rows[:0] = [rows[-2]]  # the first label comes again
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([("text", "label"), *rows] if header else rows)
    suffix = "tsv" if delimiter == "\t" else "csv"
    path = tmp_path_factory.mktemp("found") / f"table.{suffix}"
    path.write_bytes(file.getvalue().encode(encoding))
    table = open_table(path)
    assert table.columns == (("text", "label") if header else ("column_1", "column_2"))
    assert cells(table) == [list(row) for row in rows]


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=80) | st.text(st.sampled_from('a",\r\n\t\0é'), max_size=80).map(str.encode))
def test_any_bytes_are_rows_or_one_clear_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for suffix in ("csv", "tsv", "jsonl", "txt", "parquet", "csv.gz", "txt.zst"):
        try:
            list(open_table(written(folder, f"table.{suffix}", content)).rows())
        except InputError as error:
            assert str(folder) in str(error)
            assert "\n" not in str(error)


# --- real files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("jigsaw_balanced/test.csv.zst", 12_180, "1,2"),
        ("davidson_hate/labeled_data.csv.zst", 24_783, ",count,hate_speech,offensive_language,neither,class,tweet"),
        ("olid/olid-training-v1.0.tsv.zst", 13_240, "id,tweet,subtask_a,subtask_b,subtask_c"),
        ("olid/testset-levela.tsv.zst", 860, "id,tweet"),
        ("olid/labels-levela.csv", 860, "1,2"),
        ("banking77/train.csv.zst", 10_003, "text,category"),
        ("banking77/test.csv.zst", 3_080, "text,category"),
        ("glue/SST-2/train.tsv.zst", 67_349, "sentence,label"),
        ("glue/CoLA/train.tsv.zst", 8_551, "1,2,3,4"),
        ("glue/CoLA/dev.tsv", 1_043, "1,2,3,4"),
        ("glue/MRPC/dev.tsv.zst", 408, "Quality,#1 ID,#2 ID,#1 String,#2 String"),
        ("glue/MRPC/test.tsv.zst", 1_725, "index,#1 ID,#2 ID,#1 String,#2 String"),
        ("glue/QNLI/dev.tsv.zst", 5_463, "index,question,sentence,label"),
        ("glue/RTE/train.tsv.zst", 2_490, "index,sentence1,sentence2,label"),
        ("glue/WNLI/train.tsv", 635, "index,sentence1,sentence2,label"),
        ("imdb_sub/train.jsonl.zst", 3_000, "text,label,rating,file"),
        ("ag_news/test.csv.zst", 7_599, "1,2,3"),
    ],
)
def test_public_files_are_read_right(shared_data: Path, name: str, rows: int, columns: str) -> None:
    table = open_table(shared_data / name)
    assert ",".join(column.removeprefix("column_") for column in table.columns) == columns
    found = list(table.rows())
    assert len(found) == rows
    assert not any(row.problem for row in found)
    assert all(len(row.values) == len(table.columns) for row in found)


def test_quotes_of_public_files_are_read_as_they_were_meant(shared_data: Path) -> None:
    olid = next(row for row in open_table(shared_data / "olid/olid-training-v1.0.tsv.zst").rows() if row.line == 94)
    assert olid.values["id"]
    tweets = [row.values["tweet"] for row in open_table(shared_data / "olid/olid-training-v1.0.tsv.zst").rows()]
    assert sum(tweet.startswith('"') and tweet.endswith('"') for tweet in tweets) < 100  # enclosed by the writer: 1,057
    mrpc = [row.values["#2 String"] for row in open_table(shared_data / "glue/MRPC/train.tsv.zst").rows()]
    assert mrpc[0].startswith('Referring to him as only " the witness " ,')  # plain characters
    functions = {
        row.values["functionality"] for row in open_table(shared_data / "hatecheck/test_suite_cases.csv.zst").rows()
    }
    assert len(functions) == 29


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "guess"),
    [
        ("a.csv", HEADER + ROWS, "2 columns, comma-separated, header: text, label"),
        ("a.csv", "the river went,1\nthe boats,0\n", "2 columns, comma-separated, no header: column 1, 2"),
        ("a.csv", "text\none, two\nthree\n", "1 column, header: text"),
        ("a.csv", "id;price;name\n1;2,5;x\n2;3,5;y\n", "3 columns, semicolon-separated, header: id, price, name"),
        (
            "a.tsv",
            'text\tlabel\n" a "b"\t1\n',
            "2 columns, tab-separated, quotes are plain characters, header: text, label",
        ),
        ("a.csv", "text,label\ncafé,ja\n".encode("cp1252"), "header: text, label; not UTF-8: read as Windows-1252"),
        ("a.csv", (HEADER + ROWS).encode("utf-16"), "header: text, label; UTF-16"),
        ("a.csv", (HEADER + ROWS).encode("utf-16-be"), "header: text, label; UTF-16 without a byte order mark"),
    ],
)
def test_what_is_guessed_is_said_on_one_line(tmp_path: Path, name: str, content: bytes | str, guess: str) -> None:
    path = written(tmp_path, name, content)
    said = open_table(path).guess
    assert said.startswith(f"{path}: ")
    assert said.endswith(guess)
    assert "\n" not in said


def test_guesses_can_be_overridden(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "good,bad\nx,y\n")
    assert open_table(path, header=True).columns == ("good", "bad")
    assert len(cells(open_table(path, header=False))) == 2
    assert "it looks like data" in open_table(written(tmp_path, "b.csv", "a text,1\nother,0\n"), header=True).guess
    assert cells(open_table(path, header=False, delimiter="o")) == [["g", "", "d,bad"], ["x,y"]]
    cyrillic = written(tmp_path, "c.csv", "текст,метка\nда,нет\n".encode("cp1251"))
    assert open_table(cyrillic, header=True, encoding="cp1251").columns == ("текст", "метка")
    with pytest.raises(InputError, match="encoding: 'klingon' is not known"):
        open_table(cyrillic, encoding="klingon")
    with pytest.raises(InputError, match="delimiter: ';;' is not one character"):
        open_table(path, delimiter=";;")


def test_a_column_is_found_by_its_name_or_number(tmp_path: Path) -> None:
    named = open_table(written(tmp_path, "a.csv", "Text,label,label\nx,1,2\n"))
    assert named.columns == ("Text", "label", "label_3")
    with pytest.raises(InputError, match=r"no column 'txt'; the columns are Text, label, label_3; did you mean 'Text'"):
        named.column("txt")
    with pytest.raises(InputError, match="there is no column '1'; the columns are"):
        named.column("1")
    bare = open_table(written(tmp_path, "b.csv", "x y,1\nz z,2\n"))
    assert bare.column("2") == bare.column("column_2") == "column_2"
    for wrong in ("3", "0", "text"):
        with pytest.raises(InputError, match="its columns are numbered 1 to 2"):
            bare.column(wrong)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"\n\n", "there is no row that can be read"),
        ("a.jsonl", b"[1, 2]\n", "the first 1 lines have no JSON object; this is one JSON list"),
        ("a.xlsx", b"PK", "tables are .csv, .tsv, .jsonl, .json, .parquet and .txt files"),
        ("a.csv", b"PK\x03\x04 zip", "this is an Excel workbook or a zip archive: save the sheet as CSV"),
        ("a.csv", b"\x1f\x8b packed", "compressed with gzip: add .gz to its name"),
        ("a.csv", bytes(range(256)) * 4, "this is a binary file, not text"),
        ("a.csv.gz", b"text", "cannot be read (is not compressed)"),
        ("a.parquet", b"PAR1 no PAR1", "cannot be read as Parquet"),
        ("a.parquet.gz", b"x", "all but Parquet may be compressed"),
    ],
)
def test_files_that_are_no_tables_are_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        list(open_table(written(tmp_path, name, content)).rows())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        open_table(tmp_path / "a.csv")
    with pytest.raises(InputError, match="not a file"):
        open_table(tmp_path)


def test_rows_that_are_damaged_do_not_change_the_others(tmp_path: Path) -> None:
    lines = ["text,label", "good row,a", "short", "too,many,cells", 'x,"not closed', 'next,"a, b"', "nul\0,b", "last,c"]
    table = open_table(written(tmp_path, "a.csv", "\n".join(lines)))
    assert problems(table) == {
        3: "it has 1 cell instead of 2",
        4: "it has 3 cells instead of 2",
        5: UNCLOSED,
        7: "it has a NUL character",
    }
    assert [row.values["text"] for row in table.rows() if not row.problem] == ["good row", "next", "last"]


def test_an_unclosed_quote_takes_one_line_also_at_the_end(tmp_path: Path) -> None:
    rows = [f"text {n},a" for n in range(2000)]
    rows[1000] = '"text,a'
    table = open_table(written(tmp_path, "a.csv", "\n".join(["text,label", *rows])))
    assert problems(table) == {1002: UNCLOSED}
    assert len(cells(table)) == 2000


def test_the_encoding_of_a_whole_file_decides(tmp_path: Path) -> None:
    late = "text,label\n" + "plain text,a\n" * 30_000 + "café au lait,b\n"
    table = open_table(written(tmp_path, "late.csv", late.encode("cp1252")))
    assert cells(table)[-1] == ["café au lait", "b"]
    broken = b"text,label\n" + "é,a\n".encode() * 20 + b"caf\xe9,b\n"  # UTF-8, but for one line
    table = open_table(written(tmp_path, "broken.csv", broken))
    assert problems(table) == {22: "not UTF-8"}
    assert cells(table)[0] == ["é", "a"]


def test_line_ends_of_old_macs(tmp_path: Path) -> None:
    assert cells(open_table(written(tmp_path, "a.csv", (HEADER + ROWS).replace("\n", "\r")))) == [
        ["one river", "a"],
        ['two, "small" boats', "b"],
    ]


def test_long_texts_are_read_and_too_long_ones_named(tmp_path: Path) -> None:
    long = "word " * 100_000 + '"quoted"'
    file = io.StringIO()
    csv.writer(file).writerows([("text", "label"), (long, "a"), ("x" * (MAX_ROW_BYTES + 1), "b"), ("short", "c")])
    table = open_table(written(tmp_path, "a.csv", file.getvalue()))
    assert cells(table)[0] == [long, "a"]
    assert problems(table) == {3: f"the line has more than {MAX_ROW_BYTES:,} bytes"}
    assert cells(table)[2] == ["short", "c"]


def test_delimiters_at_the_ends_of_rows_are_no_cells(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "a.csv", "text,label\nx,a\ny,b,\nz,c,,\n"))
    assert cells(table) == [["x", "a"], ["y", "b"], ["z", "c"]]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_are_read_also_to_a_damage(tmp_path: Path, suffix: str) -> None:
    data = (HEADER + ROWS * 5000).encode()
    packed = gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)
    whole, cut = (open_table(written(tmp_path, f"{n}.csv{suffix}", packed[:n])) for n in (len(packed), len(packed) - 6))
    assert len(cells(whole)) == 10_000
    assert list(problems(cut).values()) == ["the compressed file ends early"]


def test_json_lines_may_have_other_keys_and_any_values(tmp_path: Path) -> None:
    lines = ['{"text": "a", "n": {"deep": [1]}}', "", '{"other": null, "text": 3}', "[]", "\ufeff{", '{"text": null}']
    table = open_table(written(tmp_path, "a.jsonl", "\n".join(lines)))
    assert table.columns == ("text", "n", "other")
    found = list(table.rows())
    assert [row.line for row in found] == [1, 3, 4, 5, 6]
    assert found[0].values["n"] == {"deep": [1]}
    messages = [r"the value under 'text' is not text \(int\)", "not a JSON object", "not a JSON object"]
    for row, message in zip(found[1:], [*messages, "there is no text under 'text'"], strict=True):
        with pytest.raises(InputError, match=message):
            row.text("text")


def test_parquet_keeps_its_types_and_names_its_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": [f"text {n}" for n in range(5000)], "label": [1.0] * 5000}), path, row_group_size=1000
    )
    table = open_table(path)
    assert table.columns == ("text", "label")
    assert [row.line for row in table.rows()] == list(range(1, 5001))
    data = bytearray(path.read_bytes())
    place = len(data) // 2
    data[place : place + 200] = b"\xff" * 200
    with pytest.raises(InputError, match=r"a.parquet: damaged after row [1-4]"):
        list(open_table(written(tmp_path, "a.parquet", bytes(data))).rows())


def test_a_text_file_has_a_text_a_line(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "a.txt", b"\xef\xbb\xbfone, two\r\n\r\nthree"))
    assert table.columns == ("text",)
    assert [row.text("text") for row in table.rows()] == ["one, two", "", "three"]


def peak(path: Path) -> int:
    tracemalloc.start()
    for _ in open_table(path).rows():
        pass
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    def make(rows: int) -> Path:
        path, values = tmp_path / name, [f"text, {n} " * 20 for n in range(rows)]
        if name == "a.parquet":
            pq.write_table(pa.table({"text": values}), path, row_group_size=500)
        elif name == "a.jsonl":
            path.write_text("".join(json.dumps({"text": value}) + "\n" for value in values))
        else:
            _write_csv(path, [("text",), *((value,) for value in values)])
        return path

    small, large = peak(make(4000)), peak(make(10_000))
    assert large < 1.15 * small + 100_000


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
