"""Parquet: every cell becomes JSON or a reason, whatever pyarrow makes of it; the sizes of pages are read first."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.core.chunks import DamageError
from neolm.corpus.config import CorpusConfig
from neolm.corpus.records import read_records
from neolm.corpus.sources import find_files
from neolm.formats.parquet_pages import read_pages, read_row_groups
from neolm.formats.parquet_values import column_values

LIMIT = 10**6


def values(array: pa.Array) -> list:
    return list(column_values(array, LIMIT))


def read(path, **settings):
    config = CorpusConfig(source="files", path=str(path), **settings)
    return [record for file in find_files(config, path / "none").files for record in read_records(file, config)]


CELLS = {
    "nanoseconds": (pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")), "2023-11-14T22:13:20.123456789"),
    "seconds": (pa.array([0], pa.timestamp("s")), "1970-01-01T00:00:00"),
    "with a time zone": (pa.array([0], pa.timestamp("ms", "Europe/Berlin")), "1970-01-01T00:00:00.000Z"),
    "an unknown time zone": (pa.array([0], pa.timestamp("us", "Nowhere/At all")), "1970-01-01T00:00:00.000000Z"),
    "far timestamp": (pa.array([2**58], pa.timestamp("ms")), "9135627-01-07T23:28:31.744"),
    "no timestamp": (pa.array([-(2**63)], pa.timestamp("s")), -(2**63)),
    "date": (pa.array([19_000], pa.date32()), "2022-01-08"),
    "far date": (pa.array([2**30], pa.date32()), "2941775-04-07"),
    "date in milliseconds": (pa.array([86_400_000], pa.date64()), "1970-01-02"),
    "time": (pa.array([3_600_000_000_001], pa.time64("ns")), "01:00:00.000000001"),
    "time outside the day": (pa.array([90_000], pa.int32()).view(pa.time32("s")), 90_000),
    "duration": (pa.array([5], pa.duration("s")), 5),
    "decimal": (pa.array([decimal.Decimal("1.50")]), "1.50"),
    "not a number": (pa.array([float("nan")]), "nan"),
    "infinity": (pa.array([float("-inf")]), "-inf"),
    "half precision": (pa.array([np.float16(1.5)], pa.float16()), 1.5),
    "large integer": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "boolean": (pa.array([True]), True),
    "null": (pa.array([None], pa.timestamp("ns")), None),
    "nothing": (pa.nulls(1), None),
    "bytes of text": (pa.array(["ü".encode()]), "ü"),
    "bytes": (pa.array([b"\xff\x00"]), "ff00"),
    "fixed bytes": (pa.array([b"ab"], pa.binary(2)), "ab"),
    "categories": (pa.array(["x"]).dictionary_encode(), "x"),
    "list": (pa.array([[1, None, 3]]), [1, None, 3]),
    "list of times": (pa.array([[0]], pa.list_(pa.timestamp("ns"))), ["1970-01-01T00:00:00.000000000"]),
    "fixed list": (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), [1, 2]),
    "large list": (pa.array([["a"]], pa.large_list(pa.string())), ["a"]),
    "list view": (pa.array([["a"]], pa.list_view(pa.string())), ["a"]),
    "struct": (pa.array([{"a": 1, "b": {"c": None}}]), {"a": 1, "b": {"c": None}}),
    "struct without fields": (pa.array([{}], pa.struct([])), {}),
    "null struct": (pa.array([None], pa.struct([("a", pa.int64())])), None),
    "equal names": (pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), {"a": 2}),
    "map": (pa.array([[("a", 1), ("b", 2)]], pa.map_(pa.string(), pa.int64())), {"a": 1, "b": 2}),
    "equal keys": (pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64())), {"a": 2}),
    "keys that are numbers": (pa.array([[(1, "x")]], pa.map_(pa.int64(), pa.string())), {"1": "x"}),
    "null map": (pa.array([None], pa.map_(pa.string(), pa.int64())), None),
    "UUID": (pa.array([b"0123456789abcdef"], pa.uuid()), "0123456789abcdef"),
}


@pytest.mark.parametrize("case", CELLS)
def test_cells_become_json_by_the_rule(case):
    array, expected = CELLS[case]
    found = values(array)
    assert found == [expected]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


TYPES = st.sampled_from([pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us", "UTC"), pa.timestamp("ns"),
    pa.date64(), pa.time64("us"), pa.time64("ns"), pa.duration("ns")])  # fmt: skip


@given(TYPES, st.integers(-(2**63), 2**63 - 1))
def test_no_time_fails_and_those_of_python_agree(kind, number):
    (found,) = values(pa.array([number]).view(kind))
    assert json.loads(json.dumps(found)) == found
    unit = getattr(kind, "unit", "ms")
    if pa.types.is_timestamp(kind) and unit != "ns" and abs(number) < 2**35:
        per_second = {"s": 1, "ms": 10**3, "us": 10**6}[unit]
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=number // per_second)
        assert found.startswith(moment.isoformat())


NESTED = st.recursive(
    st.one_of(st.none(), st.integers(-(2**62), 2**62), st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.lists(NESTED, min_size=1, max_size=4), st.integers(0, 3), st.booleans())
def test_nested_cells_are_what_to_pylist_gives(rows, start, dictionary):
    try:
        array = pa.array(rows)
    except (pa.ArrowException, OverflowError):
        return
    assert values(array) == array.to_pylist()
    assert values(array.slice(start)) == array.to_pylist()[start:]
    lists = pa.array([rows, None, []]) if pa.types.is_string(array.type) and dictionary else None
    if lists is not None:
        shared = pa.ListArray.from_arrays(lists.offsets, lists.values.dictionary_encode())
        assert values(shared) == [rows, [], []]


@pytest.mark.parametrize(
    "layout", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda kind: pa.list_(kind, 2)]
)
@pytest.mark.parametrize("start", range(4))
def test_every_layout_of_lists(layout, start):
    array = pa.array([["a", "b"], None, ["c", None], ["d", "e"]], layout(pa.string())).slice(start)
    assert values(array) == array.to_pylist()
    assert values(array[:2]) == array[:2].to_pylist()


def test_a_cell_that_is_not_utf8_is_alone_in_its_batch():
    array = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
    assert [value if isinstance(value, str) else value.reason for value in values(array)] == [
        "good", "broken_utf8", "fine",
    ]  # fmt: skip
    nested = pa.StructArray.from_arrays([array], ["a"])
    assert [isinstance(value, DamageError) for value in values(nested)] == [False, True, False]


@pytest.mark.parametrize("column", ["id", "meta", "source", "licence", "parent", "metadata"])
@pytest.mark.parametrize("case", ["nanoseconds", "far timestamp", "far date", "equal names", "map", "decimal", "UUID"])
def test_no_cell_costs_the_text(tmp_path, column, case):
    try:
        pq.write_table(pa.table({"text": ["a good text"], column: CELLS[case][0]}), tmp_path / "a.parquet")
    except pa.ArrowException as error:
        assert case == "equal names", error
        return
    (record,) = read(tmp_path / "a.parquet")
    assert (record.text, record.reason) == ("a good text", None)


def test_a_map_is_metadata(tmp_path):
    meta = pa.array([[("pile_set_name", "Books"), ("k", "v")]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"text": ["a good text"], "meta": meta}), tmp_path / "a.parquet")
    (record,) = read(tmp_path / "a.parquet")
    assert (record.source, json.loads(record.metadata)) == ("Books", {"pile_set_name": "Books", "k": "v"})


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]
)
def test_a_column_of_bytes_is_read_as_utf8(tmp_path, kind):
    texts = pa.array(["größer".encode(), b"\xff\xfe", None], pa.binary()).cast(kind)
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    found = [(record.text, record.reason) for record in read(tmp_path / "a.parquet")]
    assert found == [("größer", None), ("", "broken_utf8"), ('{"text": null}', "missing_text")]


def test_a_column_without_text_is_named_with_its_type(tmp_path):
    pq.write_table(pa.table({"text": [[1, 2]], "body": ["x"]}), tmp_path / "a.parquet")
    (record,) = read(tmp_path / "a.parquet")
    assert record.reason == "missing_text"
    assert "the column 'text' is list<" in record.metadata
    (record,) = read(tmp_path / "a.parquet", text_key="content")
    assert "no column 'content'; the columns are text, body" in record.metadata


def test_texts_that_are_too_large_are_rejected_alone(tmp_path):
    pq.write_table(pa.table({"text": ["short", "x" * 5000, "last"]}), tmp_path / "a.parquet")
    found = [
        (record.id, record.reason, record.size) for record in read(tmp_path / "a.parquet", max_document_bytes=1000)
    ]
    assert found == [("a.parquet:1", None, 5), ("a.parquet:2", "too_large", 5000), ("a.parquet:3", None, 4)]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_page_sizes_are_those_of_the_file(version, compression):
    """The pages fill their column exactly, and hold the values that the footer tells."""
    sink = pa.BufferOutputStream()
    columns = {
        "text": [f"text {n} " * 50 for n in range(3000)],
        "tags": [["a", str(n)] for n in range(3000)],
        "same": ["x" * 1000] * 3000,
    }
    options = {
        "data_page_version": version,
        "compression": compression,
        "data_page_size": 4096,
        "write_statistics": False,
    }
    pq.write_table(pa.table(columns), sink, row_group_size=1000, write_page_checksum=True, **options)
    data = sink.getvalue().to_pybytes()
    metadata = pq.read_metadata(io.BytesIO(data))
    groups = read_row_groups(io.BytesIO(data))
    assert [group.rows for group in groups] == [1000] * 3
    for number, group in enumerate(groups):
        for index, place in enumerate(group.columns):
            chunk = metadata.row_group(number).column(index)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            assert place == (start, start + chunk.total_compressed_size)
            pages = list(read_pages(io.BytesIO(data), *place))
            assert sum(page.values for page in pages) == chunk.num_values
            # The sum in the footer includes the headers, of about 30 to 60 bytes.
            assert chunk.total_uncompressed_size - 200 * len(pages) < sum(page.size for page in pages)
            assert sum(page.size for page in pages) < chunk.total_uncompressed_size


def test_a_schema_that_is_nested_too_deeply_is_not_given_to_arrow(tmp_path):
    """A footer of one group in another, ten thousand times, without columns and row groups."""
    group = bytes([0x48, 0x01, ord("a"), 0x15, 0x02, 0x00])  # name (field 4) "a", one child (field 5)
    footer = bytes([0x15, 0x02, 0x19, 0xFC, 0x90, 0x4E]) + group * 10_000 + bytes([0x16, 0x00, 0x19, 0x0C, 0x00])
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    (record,) = read(tmp_path / "a.parquet")
    assert (record.reason, "more than 256 levels" in record.metadata) == ("unreadable", True)


@given(st.binary(max_size=200))
def test_damaged_page_headers_are_value_errors(data):
    try:
        assert all(page.size >= 0 for page in read_pages(io.BytesIO(data), 0, len(data)))
    except ValueError as error:
        assert "page header at byte" in str(error)


# Reads a file again and again with random changes, most of them in its footer.
MUTATE = """
import io, json, random, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from neolm.corpus.config import CorpusConfig
from neolm.corpus.records import read_records
from neolm.corpus.sources import RawFile
chance, path = random.Random(0), Path(sys.argv[1])
meta = [{"n": n, "tags": [str(n), "x"], "t": None} for n in range(30)]
texts, times = [f"a text {n}" for n in range(30)], pa.array(range(30), pa.timestamp("ns"))
table = pa.table({"text": texts, "meta": meta, "id": times})
config, seeds, reasons = CorpusConfig(source="files", path="x"), [], set()
for options in ({}, {"compression": "zstd"}, {"data_page_version": "2.0"}, {"use_dictionary": False}):
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=13, **options)
    seeds.append(sink.getvalue())
for _ in range(3000):
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(data)) if chance.random() < 0.3 else len(data) - chance.randrange(1, 1500)
        data[place] = chance.choice([data[place] ^ 1 << chance.randrange(8), chance.randrange(256), 0, 255, 127, 128])
    path.write_bytes(data)
    for record in read_records(RawFile(str(path), "a.parquet", "parquet", len(data), 0), config):
        json.loads(record.metadata)
        reasons.add(record.reason)
print(sorted(reasons - {None}))
"""


def test_damaged_files_never_end_the_process(tmp_path):
    """pyarrow aborts if it is asked for a damaged description of a column, so these run in a process of their own."""
    command = [sys.executable, "-c", MUTATE, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "unreadable" in done.stdout
