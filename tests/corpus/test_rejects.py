"""Every reason for rejecting a record; a bad record does not affect the others."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

from neolm.corpus.config import CorpusConfig
from neolm.corpus.filters import judge, text_fraction
from neolm.corpus.records import read_records
from neolm.corpus.sources import find_files


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t\u3000", "empty"),
        ("  123456789  ", "too_short"),
        ("1234567890", None),
        ("a" * 51, "too_long_lines"),
        ("\n".join(["a" * 50] * 3), None),
        ("word !!!!!!!!", "mostly_non_text"),
        ("word and !!!!!!!!", None),
        ("\ufffd" * 20, "mostly_non_text"),
        ("\x01" * 20, "mostly_non_text"),
        ("def f(x):\n    return {x: [x]}\n", None),
        ("12+34=46\n1+1=2\n", None),
        ("吾輩は猫である。名前はまだ無い。", None),
        ("हिन्दी में लिखा हुआ पाठ", None),
    ],
)
def test_filters(text, reason):
    assert judge(text, CorpusConfig(max_line_characters=50)) == reason


@pytest.mark.parametrize(
    ("text", "fraction"), [("", 0.0), ("ab!?", 0.5), ("aé!…", 0.5), ("é", 1.0), ("…", 0.0), ("1 a\n", 1.0)]
)
def test_text_fraction(text, fraction):
    assert text_fraction(text) == fraction


BAD_LINES = {
    "broken_json": '{"text": "not closed\n',
    "missing_text": '{"body": "no such key"}\n',
    "broken_utf8": '{"text": "half a pair \\ud800"}\n',
    "binary": '{"text": "a \\u0000 byte"}\n',
    "empty": '{"text": " "}\n',
    "too_short": '{"text": "hi"}\n',
    "too_long_lines": json.dumps({"text": "z" * 200}) + "\n",
    "mostly_non_text": '{"text": "%%%%%%%%%%%%"}\n',
}


def test_bad_lines_do_not_affect_the_others(build, write):
    good = [{"text": f"a good line, number {n}"} for n in range(len(BAD_LINES) + 1)]
    lines = [line for pair in zip(good, [*BAD_LINES.values(), "\n"], strict=True) for line in pair]
    corpus = build(write("mixed.jsonl", lines), min_characters=5, max_line_characters=100)
    assert sorted(d.text for d in corpus.kept.values()) == sorted(record["text"] for record in good)
    assert corpus.reasons == {f"mixed.jsonl:{2 * n + 2}": reason for n, reason in enumerate(BAD_LINES)}
    assert corpus.counts["rejected"].keys() == BAD_LINES.keys()


def test_json_lines_that_are_not_objects(build, write):
    corpus = build(
        write("a.jsonl", ["[1]\n", '"text"\n', "3\n", '{"text": 3}\n', "[" * 100_000 + "\n", {"text": "fine"}])
    )
    assert sorted(corpus.reasons.values()) == ["broken_json", *["missing_text"] * 4]
    assert list(corpus.kept) == ["a.jsonl:6"]


def test_bytes_that_are_not_utf8(build, write):
    raw = write("latin.txt", "Grüße aus Köln".encode("latin-1")).parent
    write("lines.jsonl", b'{"text": "fine"}\n{"text": "Gr\xfc\xdfe"}\n{"text": "a\x00b"}\n')
    write("utf16.txt", "windows text".encode("utf-16"))
    write("picture.txt", b"\x89PNG\x00\x01" * 100_000)
    corpus = build(raw)
    assert corpus.reasons == {
        "latin.txt": "broken_utf8",
        "lines.jsonl:2": "broken_utf8",
        "lines.jsonl:3": "binary",
        "utf16.txt": "broken_utf8",
        "picture.txt": "binary",
    }
    assert corpus.rejected["latin.txt"]["text"] == "Gr\\xfc\\xdfe aus K\\xf6ln"
    assert "byte 2" in corpus.rejected["latin.txt"]["metadata"]
    assert len(corpus.rejected["picture.txt"]["text"]) <= 10_000
    assert corpus.counts["rejected"]["broken_utf8"]["documents"] == 3


def some_lines(number: int) -> bytes:
    """JSON lines that do not compress well, so that the packed file has many blocks."""
    words = random.Random(0)
    records = [
        {"text": f"record {n} " + " ".join(f"{words.getrandbits(60):x}" for _ in range(100))} for n in range(number)
    ]
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_lines_before_a_truncation_are_kept(build, tmp_path, suffix, pack):
    data = some_lines(2000)
    packed = pack(data)
    path = tmp_path / f"cut.jsonl{suffix}"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    corpus = build(path)
    number = len(corpus.kept)
    assert 1200 < number < 1600
    assert {d.text for d in corpus.kept.values()} == {json.loads(line)["text"] for line in data.splitlines()[:number]}
    assert corpus.reasons == {f"cut.jsonl{suffix}:{number + 1}": "truncated"}


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".zst", zstandard.compress), (".xz", lzma.compress), (".bz2", bz2.compress)],
)
def test_concatenated_frames_and_padding(build, tmp_path, suffix, pack):
    path = tmp_path / f"two.jsonl{suffix}"
    path.write_bytes(pack(b'{"text": "one"}\n{"te') + pack(b'xt": "two"}\n') + b"\0" * 100)
    corpus = build(path)
    assert sorted(d.text for d in corpus.kept.values()) == ["one", "two"]
    assert corpus.reasons == {}


def test_a_truncated_text_is_rejected(build, write, tmp_path):
    path = write("a.txt.gz", "the whole story " * 1000)
    path.write_bytes(path.read_bytes()[:-10])
    write("b.txt", "another story")
    corpus = build(path.parent)
    assert (corpus.reasons, list(corpus.kept)) == ({"a.txt.gz": "truncated"}, ["b.txt"])


def test_files_that_cannot_be_read(build, write):
    raw = write("good.txt", "a good text").parent
    (raw / "packed.txt.gz").write_bytes(b"this is not gzip")
    (raw / "packed.jsonl.zst").write_bytes(b"this is not zstd")
    write("table.parquet", b"PAR1 this is no table")
    if Path("/proc/self/mem").exists():  # reading it at 0 fails, for root too
        (raw / "memory.txt").symlink_to("/proc/self/mem")
    corpus = build(raw)
    assert list(corpus.kept) == ["good.txt"]
    assert set(corpus.reasons.values()) == {"unreadable"}
    assert len(corpus.reasons) >= 3


def test_the_duplicate_with_the_smallest_id_is_kept(build, write):
    raw = write("b.txt", "the same text\n").parent
    write("a.jsonl", [{"text": "the same text\r\n", "id": "c", "meta": {"n": 1}}])
    write("z.txt", "the same  text\n")
    corpus = build(raw)
    assert set(corpus.kept) == {"b.txt", "z.txt"}
    assert corpus.reasons == {"c": "duplicate"}
    assert json.loads(corpus.rejected["c"]["metadata"]) == {"n": 1, "duplicate_of": "b.txt"}


def test_texts_that_differ_only_at_their_ends_are_duplicates_and_so_never_in_both_splits(build, write):
    records = [
        {"text": end + f"text number {n}" + end, "id": f"{n}{end}"} for n in range(60) for end in ("", "\n", " \t")
    ]
    corpus = build(write("a.jsonl", records), validation_fraction=0.5)
    assert set(corpus.kept) == {str(n) for n in range(60)}
    assert corpus.counts["rejected"]["duplicate"]["documents"] == 120


def test_rejected_records_are_not_compared_for_duplicates(build, write):
    corpus = build(write("a.jsonl", [{"text": "  "}, {"text": "  "}, {"text": "a text"}]))
    assert sorted(corpus.reasons.values()) == ["empty", "empty"]


def test_the_counts_add_up(build, write):
    raw = write("a.txt", "ä text").parent
    write("b.txt", "ä text")
    write("c.txt", "another text")
    write("d.txt", b"\xff\xff\xff")
    counts = build(raw).counts
    assert counts["read"] == {"documents": 4, "bytes": 7 + 7 + 12 + 3}
    assert counts["rejected"] == {
        "broken_utf8": {"documents": 1, "bytes": 3},
        "duplicate": {"documents": 1, "bytes": 7},
    }
    assert counts["kept"] == {"documents": 2, "parts": 2, "bytes": 19}
    assert counts["train"]["bytes"] + counts["validation"]["bytes"] == 19
    assert counts["sources"] == {"a.txt": 1, "c.txt": 1}


def test_mojibake_is_counted_and_kept(build, write, capsys):
    raw = write("a.txt", "plain text").parent
    write("b.txt", "franÃ§ais")
    write("c.txt", "le français")
    write("d.txt", "lost: \ufffd")
    write("e.txt", "franÃ§ais")  # a duplicate
    corpus = build(raw)
    assert (corpus.counts["mojibake"], corpus.counts["mojibake_example"]) == (2, "b.txt")
    assert set(corpus.kept) == {"a.txt", "b.txt", "c.txt", "d.txt"}
    assert "corpus: mojibake in 2 of the kept documents, for example b.txt" in capsys.readouterr().err


def test_odd_files_of_one_folder(neolm_, write, tmp_path):
    raw = write("good.txt", "a good text of some words").parent
    lines = [
        '{"text": "one line \u2028 with a line separator"}\n',
        '{"text": "the first", "text": "the last key is kept"}\n',
    ]
    write("lines.jsonl", lines)
    for number in range(300):
        write(f"empty/{number}.txt", "")
    os.mkfifo(raw / "pipe.txt")
    (raw / "loop").symlink_to(raw)
    (raw / "itself.txt").symlink_to("itself.txt")
    code, _, error = neolm_("corpus", "build", "text", f"corpus.path={raw}", f"output={raw / 'output'}")
    assert code == 0 and "3 of 303 documents kept" in error and "empty 300" in error
    assert "1 not a regular file" in error and "itself.txt" in error
    rows = [row for path in (raw / "output/corpus/documents").iterdir() for row in pq.read_table(path).to_pylist()]
    texts = {row["id"]: row["text"] for row in rows}
    assert texts["lines.jsonl:1"] == "one line \u2028 with a line separator"
    assert texts["lines.jsonl:2"] == "the last key is kept"


@pytest.mark.parametrize("name", ["b.txt", "b.jsonl", "b.csv", "b.zip", "b.parquet", "b.html", "b.mbox"])
def test_a_file_that_vanishes(write, tmp_path, name):
    path = write(name, "some text")
    [file] = find_files(CorpusConfig(source="files", path=str(path)), tmp_path).files
    path.unlink()
    assert [record.reason for record in read_records(file, CorpusConfig(source="files"))] == ["unreadable"]
