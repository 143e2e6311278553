"""The corpus stage: same bytes for the same input, skipped if nothing changed, rebuilt if something did."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neolm.core.errors import InputError, NeoLMError, StorageError
from neolm.core.files import digest_file
from neolm.core.manifest import read_manifest, verify
from neolm.corpus import writer
from neolm.corpus.documents import DOCUMENT_SCHEMA, read_documents


@pytest.fixture
def raw(write):
    """A folder with two files in it."""
    write("b.jsonl.zst", [{"text": f"text number {n}", "id": (n * 7919) % 1000} for n in range(1000)])
    return write("a.txt", "a text of its own").parent


def test_the_same_input_gives_the_same_bytes(build, raw, tmp_path, monkeypatch):
    first = build(raw, output=tmp_path / "first")
    monkeypatch.setattr("neolm.corpus.ingest.GROUP_BYTES", 1)  # another way to share the work
    second = build(raw, output=tmp_path / "second")
    assert first.manifest.outputs == second.manifest.outputs
    assert set(first.manifest.outputs) == {
        "config.json",
        "documents/train-00000.parquet",
        "documents/validation-00000.parquet",
        "rejected/rejected-00000.parquet",
    }
    assert verify(first.directory) == []
    ids = [d.id for d in first.split("train")]
    assert ids == sorted(ids)
    assert [p.name for p in first.directory.iterdir() if p.name.startswith(".")] == []


def test_up_to_date(build, raw, capsys):
    first = build(raw)
    capsys.readouterr()
    again = build(raw)
    assert again.manifest == first.manifest
    assert capsys.readouterr().err == "corpus: up to date\n"


def test_rebuilt_when_a_file_or_a_setting_changes(build, raw, write):
    first = build(raw)
    write("a.txt", "b text of its own")  # the same length
    second = build(raw)
    assert second.manifest.inputs["raw"].digest != first.manifest.inputs["raw"].digest
    assert second.kept["a.txt"].text == "b text of its own"
    assert build(raw, min_characters=14).counts["rejected"]["too_short"]["documents"] == 10
    write("ignored.bin", b"x")
    assert build(raw).manifest.inputs == second.manifest.inputs


def test_the_message_has_the_counts(build, raw, capsys):
    counts = build(raw).counts
    assert counts["read"]["documents"] == 1001
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("corpus: 1,001 of 1,001 documents kept")


NAMES = ["-out [1] {a,b} *?\\ ü", "file:# 100%20 & ~x", "[a-c]#1?b=2", "s3:"]


@pytest.mark.parametrize("name", NAMES)
def test_output_with_special_characters(build, raw, tmp_path, name):
    assert len(build(raw, output=tmp_path / name).kept) == 1001


@pytest.mark.parametrize("name", [*NAMES, "~no such user", "notes #2", "CC BY: 4.0", "null"])
def test_raw_text_with_special_characters(build, write, tmp_path, monkeypatch, name):
    write(f"{name}/{name}.txt", "a text of its own")
    write(f"{name}/{name}/rows.jsonl", [{"text": "a row"}])
    expected = {f"{name}.txt", f"{name}/rows.jsonl:1"}
    assert set(build(tmp_path / "raw" / name).kept) == expected
    monkeypatch.chdir(tmp_path / "raw")
    assert set(build(name).kept) == expected
    assert set(build(f"./{name}").kept) == expected
    assert set(build(f"{name}/{name}.txt").kept) == {f"{name}.txt"}


def test_documents_of_older_corpora_are_their_own_parents(build, raw):
    corpus = build(raw)
    manifest = json.loads((corpus.directory / "manifest.json").read_text())
    for path in (corpus.directory / "documents").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("parent"), path)
        manifest["outputs"][f"documents/{path.name}"] = digest_file(path)
    (corpus.directory / "manifest.json").write_text(json.dumps(manifest))
    assert all(document.parent == document.id for document in corpus.kept.values())


def test_damaged_documents_are_not_read(build, write):
    corpus = build(write("a.txt", "something to read").parent)
    (path,) = (corpus.directory / "documents").glob("train-*.parquet")
    intact = path.read_bytes()
    path.write_bytes(intact[:100] + bytes([intact[100] ^ 1]) + intact[101:])
    with pytest.raises(InputError, match=r"train-.*parquet is missing, or differs from what was"):
        next(read_documents(corpus.directory, "train"))


def test_reading_a_directory_that_is_not_a_corpus(tmp_path):
    with pytest.raises(NeoLMError, match=r"there is no finished corpus\. Build it with `neolm corpus build`"):
        next(read_documents(tmp_path, "train"))


def test_full_disk_while_reading(build, raw, tmp_path, monkeypatch):
    built = build(raw)

    def refuse(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("neolm.corpus.ingest.pq.ParquetWriter", refuse)
    with pytest.raises(StorageError, match="the disk is full"):
        build(raw, min_characters=2)
    assert read_manifest(built.directory) == built.manifest  # the old one is untouched
    assert [p.name for p in (tmp_path / "output").iterdir()] == ["corpus"]


def test_row_groups_and_files_depend_on_the_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "ROW_GROUP_BYTES", 100)
    monkeypatch.setattr(writer, "FILE_BYTES", 1000)
    rows = [dict.fromkeys(DOCUMENT_SCHEMA.names, "") | {"id": str(n), "text": "x" * (n % 37)} for n in range(300)]
    for name, step in (("one", 300), ("two", 7), ("three", 1)):
        out = writer.TableWriter(tmp_path / name, "train", DOCUMENT_SCHEMA)
        for start in range(0, 300, step):
            out.write(pa.Table.from_pylist(rows[start : start + step]))
        out.close()
        assert (out.rows, out.text_bytes) == (300, sum(len(row["text"]) for row in rows))
    files = [[p.read_bytes() for p in sorted((tmp_path / name).iterdir())] for name in ("one", "two", "three")]
    assert files[0] == files[1] == files[2]
    assert len(files[0]) > 3
    tables = [pq.read_table(p) for p in sorted((tmp_path / "one").iterdir())]
    assert pa.concat_tables(tables).to_pylist() == rows


def test_pages_do_not_depend_on_batches(tmp_path):
    """Pages are cut after every 1,024 rows of a chunk, if they are large enough."""
    rows = [dict.fromkeys(DOCUMENT_SCHEMA.names, "") | {"id": f"{n:05d}", "text": f"{n} " * 300} for n in range(3000)]
    for step in (3000, 700):
        out = writer.TableWriter(tmp_path / str(step), "train", DOCUMENT_SCHEMA)
        for start in range(0, 3000, step):
            out.write(pa.Table.from_pylist(rows[start : start + step], DOCUMENT_SCHEMA))
        out.close()
    first, second = (next((tmp_path / name).iterdir()).read_bytes() for name in ("3000", "700"))
    assert first == second


def test_daft_is_silent_and_the_settings_do_not_load_it():
    code = (
        "import sys, neolm.corpus.config; assert not {'daft', 'pyarrow', 'torch'} & set(sys.modules);"
        "import neolm.corpus.build; assert 'daft' not in sys.modules;"
        "import neolm.corpus.engine; from daft.scarf_telemetry import opted_out; assert opted_out()"
    )
    environment = {k: v for k, v in os.environ.items() if "ANALYTICS" not in k and k != "DO_NOT_TRACK"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


BAD = {
    "no path": (None, {}, "^path: corpus.source=files needs a file or a folder"),
    "path with the standard library": ("a.txt", {"source": "python-stdlib"}, "set corpus.source=files"),
    "missing": ("nothing.txt", {}, "nothing.txt does not exist"),
    "empty file": ("empty.txt", {}, "empty.txt is empty"),
    "unsupported file": ("x.pdf", {}, r"x.pdf: files of this kind cannot be read; supported: .txt, .md, .py"),
    "folder without text": ("pictures", {}, r"has no text to read \(ignored 1 file: 1 .jpg\); supported: .txt"),
    "empty folder": ("void", {}, r"has no text to read \(no files\)"),
    "not UTF-8": ("latin.txt", {}, "the text is not UTF-8; convert it.*iconv"),
    "nothing kept": (
        "blank.jsonl",
        {"min_characters": 9},
        r"no document is kept \(too_short 2, broken_json 1\); lower the limit with corpus.min",
    ),
    "no documents": ("newlines.jsonl", {}, "has no documents"),
    "binary": ("data.txt", {}, r"no document is kept \(binary 1\); give text files \(for example: NUL at byte 0\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(build, write, tmp_path, case):
    name, settings, message = BAD[case]
    write("a.txt", "a text")
    write("empty.txt", "")
    write("x.pdf", "%PDF")
    write("pictures/a.jpg", "")
    write("latin.txt", b"Gr\xfc\xdfe")
    write("blank.jsonl", ['{"text": "a"}\n', '{"text": "b"}\n', "{\n"])
    write("newlines.jsonl", "\n\n\n")
    write("data.txt", b"\x00\x01\x02")
    (tmp_path / "raw" / "void").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        build(name and tmp_path / "raw" / name, **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "output" / "corpus").exists()


@pytest.mark.parametrize("settings", [{}, {"split_characters": 300}])
def test_texts_are_sorted_in_ranges_of_ids(build, write, tmp_path, monkeypatch, settings):
    rows = [{"text": f"{number:05d} " * 200, "id": f"é{number * 7919 % 1000}"} for number in range(300)]
    path = write("a.jsonl", [*rows, rows[0]])
    whole = build(path, output=tmp_path / "whole", **settings)
    monkeypatch.setattr("neolm.corpus.sorting.RANGE_BYTES", 20_000)
    monkeypatch.setattr("neolm.corpus.sorting.SAMPLED", 100)
    assert build(path, output=tmp_path / "ranges", **settings).manifest.outputs == whole.manifest.outputs
