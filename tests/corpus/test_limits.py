"""Hostile files are read in bounded memory and time, and the files and records beside them are kept."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import tracemalloc
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.chunks import Expansion, read_lines
from neolm.corpus.config import CorpusConfig
from neolm.corpus.filters import has_longer_line, text_fraction
from neolm.corpus.ingest import ingest
from neolm.corpus.text import clean
from neolm.formats.json_values import MAX_NESTING, json_text, parse_json

MIB = 2**20
LIMIT = 16 * MIB

# The records of a folder by reason and the peak memory above that of the imports, in a process of its own.
READ = """
import collections, json, resource, sys
from pathlib import Path
from neolm.corpus.config import CorpusConfig
from neolm.corpus.records import read_records
from neolm.corpus.sources import find_files
from neolm.corpus.text import clean
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before, reasons = peak(), collections.Counter()
config = CorpusConfig(source="files", path=sys.argv[1], max_document_bytes=int(sys.argv[2]))
for file in find_files(config, Path("none")).files:
    for record in read_records(file, config):
        clean(record.text)
        reasons[record.reason or "kept"] += 1
print(json.dumps({"reasons": reasons, "peak": peak() - before}))
"""


def unpacked(opener, path: Path, unit: bytes, number: int, start: bytes = b"", end: bytes = b"", **options) -> None:
    with opener(path, **options) as file:
        file.write(start)
        for _ in range(number):
            file.write(unit)
        file.write(end)


def zst(path: Path, **options):
    return zstandard.ZstdCompressor(**options).stream_writer(path.open("wb"))


def gz(path: Path, **options):
    return gzip.open(path, "wb", **options)


def plain(path: Path):
    return path.open("wb")


def text_zst(folder: Path) -> None:
    unpacked(zst, folder / "a.txt.zst", b"word " * (MIB // 5), 500)


def text_gz(folder: Path) -> None:
    unpacked(gz, folder / "a.txt.gz", b"word " * (MIB // 5), 200, compresslevel=1)


def text_xz(folder: Path) -> None:
    unpacked(lzma.open, folder / "a.txt.xz", b"word " * (MIB // 5), 300, mode="wb", preset=0)


def lines_bz2(folder: Path) -> None:
    """bzip2 takes 15 s to pack as much of repeated words, and less than one for a repeated byte."""
    unpacked(bz2.open, folder / "a.jsonl.bz2", b'{"text": "%s"}\n' % (b"a" * 900) * 1000, 100, mode="wb")


def window_xz(folder: Path) -> None:
    """The header of a block names the size of the dictionary in one byte, followed by zeros and a check sum."""
    data = bytearray(lzma.compress(b"text", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**20}]))
    data[16] = 38  # 2 GiB
    end = 12 + 4 * (data[12] + 1)
    data[end - 4 : end] = zlib.crc32(data[12 : end - 4]).to_bytes(4, "little")
    (folder / "a.txt.xz").write_bytes(data)


def one_line(folder: Path) -> None:
    unpacked(plain, folder / "a.jsonl", b"word " * (MIB // 5), 100, b'{"text": "', b'"}\n{"text": "after it"}\n')


def one_line_zst(folder: Path) -> None:
    unpacked(zst, folder / "a.jsonl.zst", b"word " * (MIB // 5), 500, b'{"text": "', b'"}\n')


def lines_zst(folder: Path) -> None:
    unpacked(zst, folder / "a.jsonl.zst", b'{"text": "%s"}\n' % (b"the same " * 100) * 1000, 1000)


def values(folder: Path) -> None:
    unpacked(plain, folder / "a.jsonl", b"[]," * MIB, 5, b'{"text": "a", "meta": [', b'0]}\n{"text": "after it"}\n')


def window(folder: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=30)
    unpacked(lambda path: zst(path, compression_params=parameters), folder / "a.txt.zst", b"text", 10)


def same(text: str, number: int) -> pa.DictionaryArray:
    """A column of `number` equal texts, which is a dictionary of one text in the file."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * number, pa.int32()), [text])


def dictionary(folder: Path) -> None:
    table = pa.table({"text": same("word " * (10 * MIB // 5), 500)})
    pq.write_table(table, folder / "a.parquet", compression="zstd")


def dictionary_of_metadata(folder: Path) -> None:
    meta = pa.StructArray.from_arrays([same("word " * (10 * MIB // 5), 500)], ["a"])
    table = pa.table({"text": same("a good text", 500), "meta": meta})
    pq.write_table(table, folder / "a.parquet", compression="zstd")


def list_of_one_text(folder: Path) -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 200_000, 200_000], pa.int32()), same("x" * MIB, 200_000))
    meta = pa.StructArray.from_arrays([lists], ["a"])
    pq.write_table(pa.table({"text": ["a text", "after it"], "meta": meta}), folder / "a.parquet", compression="zstd")


def list_of_nothing(folder: Path) -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 70 * MIB], pa.int32()), pa.nulls(70 * MIB, pa.int8()))
    meta = pa.StructArray.from_arrays([lists], ["a"])
    pq.write_table(pa.table({"text": ["a text"], "meta": meta}), folder / "a.parquet", compression="zstd")


def page(folder: Path) -> None:
    table = pa.table({"text": ["word " * (280 * MIB // 5)]})
    pq.write_table(table, folder / "a.parquet", compression="zstd", use_dictionary=False)


def many_rows(folder: Path) -> None:
    pq.write_table(pa.table({"text": same("a text", MIB)}), folder / "a.parquet")


BOMBS: dict[Callable[[Path], None], int] = {  # and the records that are kept at least, with that of the good file
    text_zst: 1,
    text_gz: 1,
    text_xz: 1,
    lines_bz2: 2,
    window_xz: 1,
    one_line: 2,
    one_line_zst: 1,
    lines_zst: 2,
    values: 2,
    window: 1,
    dictionary: 2,
    dictionary_of_metadata: 2,
    list_of_one_text: 2,
    list_of_nothing: 1,
    page: 1,
    many_rows: 2,
}


def read_in_a_process(folder: Path) -> tuple[dict[str, int], int]:
    """The records by reason, and the peak memory in bytes."""
    command = [sys.executable, "-c", READ, str(folder), str(LIMIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    return found["reasons"], found["peak"]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_bombs_take_little_memory_and_leave_the_others(bomb, tmp_path):
    bomb(tmp_path)
    (tmp_path / "good.txt").write_text("a good text")
    reasons, peak = read_in_a_process(tmp_path)
    assert reasons.pop("kept") >= BOMBS[bomb]
    assert reasons == {"too_large": 1}
    assert peak < 600 * MIB


def test_runs_of_marks_take_linear_time(tmp_path):
    """In quadratic time they would take an hour."""
    (tmp_path / "a.txt").write_text("a" + "\u0301\u0323" * MIB, encoding="utf-8")
    reasons, peak = read_in_a_process(tmp_path)
    assert reasons == {"kept": 1}
    assert peak < 600 * MIB


# ---- the parts ----


def test_an_expansion_is_counted_from_the_size_of_the_file():
    small, large = Expansion(1000, 16 * MIB), Expansion(10 * MIB, 16 * MIB)
    small.add(16 * MIB)
    large.add(2000 * MIB)
    for expansion in (small, large):
        with pytest.raises(Exception, match="200 times as large"):
            expansion.add(1)
    small.check(200_000)
    large.check(10 * MIB)
    for expansion, number in ((small, 200_001), (large, 10 * MIB + 1)):
        with pytest.raises(Exception, match="more than one for each byte"):
            expansion.check(number)


def test_a_long_name_is_no_name(build, write):
    rows = [{"text": f"text {key}", "id": "x", key: "y" * 5000} for key in ("id", "source", "licence", "parent")]
    corpus = build(write("a.jsonl", [*rows, {"text": "a good text"}]))
    assert list(corpus.kept) == ["a.jsonl:5"]
    assert set(corpus.reasons.values()) == {"too_large"}


def test_a_compressible_document_below_the_limit_is_kept(build, write):
    text = "word " * (4 * MIB)
    write("a.txt.gz", text)
    corpus = build(write("b.jsonl.zst", [{"text": text + "end"}]).parent, max_line_characters=10**8)
    assert (len(corpus.kept), corpus.reasons) == (2, {})


@given(st.lists(st.binary(max_size=8)), st.integers(1, 10))
def test_lines_are_those_of_split_whatever_the_chunks_are(chunks, limit):
    data = b"".join(chunks)
    lines = list(read_lines(chunks, limit))
    expected = data.split(b"\n")
    expected = expected if expected[-1] else expected[:-1]
    assert [(line.number, line.size) for line in lines] == [(n, len(e)) for n, e in enumerate(expected, start=1)]
    assert [line.data for line in lines] == [line[:limit] for line in expected]
    assert [line.damage is not None for line in lines] == [len(line) > limit for line in expected]


@given(st.text("ab\n", max_size=60), st.integers(1, 10))
def test_longer_lines(text, limit):
    assert has_longer_line(text, limit) == (max(map(len, text.split("\n"))) > limit)


@given(st.text(max_size=40), st.integers(1, 7))
def test_the_fraction_does_not_depend_on_the_slices(text, size):
    whole = text_fraction(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neolm.corpus.filters._SLICE", size)
        assert text_fraction(text) == whole


# Marks of several classes, starters that decompose to marks, and letters that compose with them.
PIECES = st.sampled_from(
    [*"ae\u0391\u1100", *"\u0301\u0323\u0345\u0f73\u0f75\u0f81\u0344\u05b0\u094d\U0001d165", "é", "ệ"]
)


@given(st.lists(PIECES, max_size=12), st.integers(1, 60), st.lists(PIECES, max_size=4))
def test_long_runs_of_marks_are_normalised_as_all_text(pieces, times, after):
    text = "".join(pieces) * times + "".join(after)
    assert clean(text) == unicodedata.normalize("NFC", text)


def test_no_other_character_is_a_mark():
    beyond = (chr(code) for code in [*range(0x300), *range(0x20000, 0x110000)])
    assert not [
        c for c in beyond if unicodedata.combining(c) or unicodedata.combining(unicodedata.normalize("NFD", c)[0])
    ]


@given(
    st.recursive(
        st.text(max_size=3) | st.integers() | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    )
)
def test_metadata_is_json_that_can_be_read_again(value):
    def refuse(name):
        raise AssertionError(name)

    again = json.loads(json_text({"a": value}), parse_constant=refuse)
    assert again.keys() == {"a"}


def test_deep_json_is_refused_and_large_numbers_are_text(tmp_path):
    deep = '{"a":' * MAX_NESTING + "1" + "}" * MAX_NESTING
    assert json_text(parse_json(deep)) == deep.replace(":", ": ")
    for levels in (MAX_NESTING + 1, 400, 990, 100_000):
        with pytest.raises(Exception, match=r"nested more than 100|recursion"):
            json_text(parse_json('{"a":' * levels + "1" + "}" * levels))
    assert json_text(parse_json('{"a": [1e999, -1e999, NaN]}')) == '{"a": ["inf", "-inf", "NaN"]}'


def test_commas_in_texts_are_no_values(monkeypatch):
    monkeypatch.setattr("neolm.formats.json_values.MAX_VALUES", 10)
    for text in ('"' + ",[{" * 50 + '"', '"' + r"\",[{" * 50 + '"', r'"\\"', '["' + ",," * 20 + '"]'):
        assert parse_json(text) == json.loads(text)
    for text in ("[" + "1," * 20 + "1]", '["a\\"",' + '"",' * 20 + '""]', "[" * 20 + '"' + "x" * 9):
        with pytest.raises(Exception, match="more than 10 JSON values"):
            parse_json(text)


def test_records_are_written_before_they_fill_memory(tmp_path):
    """Short texts with long metadata count by their metadata, and rows without text by their number."""
    lines = b"".join(b'{"text": "t%d", "meta": {"a": "%s"}}\n' % (n, b"x" * 100_000) for n in range(400))
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "scratch").mkdir()
    file = {"path": str(tmp_path / "a.jsonl"), "name": "a.jsonl", "kind": "json", "size": len(lines), "modified": 0}
    tracemalloc.start()
    config = CorpusConfig(source="files", path="x", min_characters=1)
    name = ingest(json.dumps([(0, file)]), tmp_path / "scratch", config, Path.cwd())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pq.read_metadata(tmp_path / "scratch" / name).num_rows == 400
    assert peak < 25e6
