"""Every format gives documents with the right id, text, source, licence and metadata."""

from __future__ import annotations

import json
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from neolm.corpus.sources import describe_ignored

PILE = {"text": "From the Pile.", "meta": {"pile_set_name": "FreeLaw", "n": 1}}


def test_text_files_below_a_folder_with_spaces_and_umlauts(build, write):
    raw = write("mein Ordner/größe.txt", "A text of size.").parents[1]
    write("b.md", "# Title\n")
    write("lib/c.PY", "print('hello')\n")
    write("d.txt.gz", "packed by gzip")
    write("e.txt.zst", "packed by zstd")
    write("f.md.xz", "packed by xz")
    write("g.py.bz2", "packed by bzip2")
    corpus = build(raw, licence="CC0-1.0")
    texts = {name: document.text for name, document in corpus.kept.items()}
    assert texts == {
        "mein Ordner/größe.txt": "A text of size.",
        "b.md": "# Title\n",
        "lib/c.PY": "print('hello')\n",
        "d.txt.gz": "packed by gzip",
        "e.txt.zst": "packed by zstd",
        "f.md.xz": "packed by xz",
        "g.py.bz2": "packed by bzip2",
    }
    document = corpus.kept["mein Ordner/größe.txt"]
    assert (document.source, document.licence) == ("mein Ordner/größe.txt", "CC0-1.0")
    assert json.loads(document.metadata) == {"digest": f"sha256:{sha256(b'A text of size.').hexdigest()}"}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".xz", ".bz2"])
def test_json_lines(build, write, suffix):
    records = [
        {"text": "first one", "id": "mine"},
        {"text": "second one", "id": 7, "metadata": {"a": [1, "ü"]}},
        "\n",
        {"text": "fourth one", "id": True, "source": "a book", "licence": "MIT"},
        PILE,
    ]
    kept = build(write("r.jsonl" + suffix, records)).kept
    file = "r.jsonl" + suffix
    assert {name: document.text for name, document in kept.items()} == {
        "mine": "first one",
        "7": "second one",
        f"{file}:4": "fourth one",
        f"{file}:5": "From the Pile.",
    }
    assert json.loads(kept["7"].metadata) == {"a": [1, "ü"]}
    assert (kept[f"{file}:4"].source, kept[f"{file}:4"].licence) == ("a book", "MIT")
    assert (kept[f"{file}:5"].source, json.loads(kept[f"{file}:5"].metadata)) == ("FreeLaw", PILE["meta"])
    assert (kept["mine"].source, kept["mine"].licence) == (file, "unknown")


def test_last_line_without_newline_byte_order_mark_and_crlf(build, write):
    data = b'\xef\xbb\xbf{"text": "one line"}\r\n{"text": "another"}'
    assert {d.text for d in build(write("w.jsonl", data)).kept.values()} == {"one line", "another"}


def test_lines_longer_than_a_chunk(build, write):
    long = "word " * 50_000
    kept = build(
        write("l.jsonl.zst", [{"text": long, "id": "a"}, {"text": "short", "id": "b"}]), max_line_characters=10**6
    )
    assert (kept.kept["a"].text, kept.kept["b"].text) == (long, "short")


def test_parquet(build, write):
    path = write("p.parquet", b"")
    rows = [{"text": "a row", "id": "x", "meta": {"pile_set_name": "S"}, "n": 1}, {"text": None, "id": "y", "n": 2}]
    pq.write_table(pa.Table.from_pylist([*rows, {"text": "no id", "n": 3}]), path)
    corpus = build(path)
    assert {name: (d.text, d.source) for name, d in corpus.kept.items()} == {
        "x": ("a row", "S"),
        "p.parquet:3": ("no id", "p.parquet"),
    }
    assert corpus.reasons == {"y": "missing_text"}


def test_a_corpus_can_be_read_as_raw_text(build, write, tmp_path):
    twice = {"text": "and a second one"}
    first = build(write("a.jsonl", [{**PILE, "licence": "MIT"}, twice, twice]))
    assert first.counts["rejected"].keys() == {"duplicate"}
    second = build(first.directory / "documents", output=tmp_path / "again")
    assert second.kept == first.kept
    whole = build(first.directory, output=tmp_path / "whole")  # the rejected documents of the corpus are no text
    assert (whole.kept.keys(), whole.counts["rejected"]) == (first.kept.keys(), {})
    assert whole.counts["ignored_kinds"] == {".json": 2, "of rejected documents": 1}


def test_parents_are_kept_when_a_corpus_is_read_again(build, write, tmp_path):
    raw = write("a.txt", " ".join(f"word {n} \ufffd" for n in range(200))).parent
    write("b.txt", " ".join(f"other {n}" for n in range(300)))
    first = build(raw, split_characters=100)
    assert (first.counts["read"]["documents"], first.counts["mojibake"]) == (2, 1)
    second = build(first.directory / "documents", output=tmp_path / "again")
    assert second.kept == first.kept
    for split in ("train", "validation"):
        assert set(second.split(split)) == set(first.split(split))
    for key in ("read", "kept", "train", "validation", "sources", "mojibake"):
        assert second.counts[key] == first.counts[key], key


def test_parts_of_one_document_that_are_read_again_stay_in_their_split(build, write, tmp_path):
    raw = write("a.txt", " ".join(f"word {n}" for n in range(200)))
    first = build(raw, split_characters=500)
    second = build(first.directory / "documents", output=tmp_path / "again")
    assert second.counts["held_out"] == first.counts["held_out"] == "parts"
    for split in ("train", "validation"):
        assert set(second.split(split)) == set(first.split(split)) != set()


def test_metadata_stays_json(build, write):
    lines = ['{"text": "not a number", "id": "a", "meta": {"x": NaN}}\n', {"text": "other", "id": "b", "meta": "no"}]
    kept = build(write("n.jsonl", lines)).kept
    assert (kept["a"].metadata, kept["b"].metadata) == ('{"x": "NaN"}', "{}")


def test_text_key(build, write):
    corpus = build(
        write("k.jsonl", [{"content": "under another name"}, {"content": "and one more"}]), text_key="content"
    )
    assert len(corpus.kept) == 2


def test_other_files_are_ignored_and_counted(build, write, capsys):
    raw = write("a.txt", "something to read").parent
    write("b.jpg", b"\xff\xd8")
    write(".git/c.txt", "hidden")
    write("d.json", "{}")
    write("e.JPG", b"\xff\xd8")
    write("README", "text")
    (raw / "gone.txt").symlink_to(raw / "nowhere")
    corpus = build(raw)
    assert (list(corpus.kept), corpus.counts["ignored_files"]) == (["a.txt"], 6)
    assert corpus.counts["ignored_kinds"] == {
        "hidden": 1, ".jpg": 2, ".json": 1, "without extension": 1, "linked to nothing": 1,
    }  # fmt: skip
    assert "ignored 6 files: 2 .jpg, 1 hidden, 1 " in capsys.readouterr().err


def test_file_names_that_are_not_utf8(build, write, capsys):
    raw = write("a.txt", "something to read").parent
    try:
        (raw / "b\udcff.txt").write_text("lost: \ufffd", encoding="utf-8")
    except OSError:
        pytest.skip("this file system accepts UTF-8 names only")
    (raw / "c.\udcff").touch()
    corpus = build(raw)
    assert {document.source for document in corpus.kept.values()} == {"a.txt", "b\\udcff.txt"}
    assert corpus.counts["ignored_kinds"] == {".\\udcff": 1}
    assert corpus.counts["mojibake_example"] == "b\\udcff.txt"
    assert "for example b\\udcff.txt" in capsys.readouterr().err


def test_only_the_most_frequent_kinds_of_ignored_files_are_named():
    ignored = {".png": 9, "without extension": 1, **{f".{n}": 1 for n in range(7)}}
    assert (
        describe_ignored(ignored) == "ignored 17 files: 9 .png, 1 without extension, 1 .0, 1 .1, 1 .2, 4 of other kinds"
    )


def test_output_below_the_input_is_not_read(build, write):
    raw = write("a.txt", "something to read").parent
    first = build(raw, output=raw / "runs" / "one")
    again = build(raw, output=raw / "runs" / "one")
    assert again.manifest.inputs == first.manifest.inputs
    assert again.counts["read"]["documents"] == 1


def test_ids_are_unique(build, write):
    raw = write("a.jsonl", [{"text": f"text {n} of a", "id": name} for n, name in enumerate("xx")]).parent
    write("b.jsonl", [{"text": "text of b", "id": "x~2"}, {"text": "more of b", "id": "x"}])
    kept = {name: document.text for name, document in build(raw).kept.items()}
    assert kept == {"x": "text 0 of a", "x~2": "text 1 of a", "x~2~2": "text of b", "x~3": "more of b"}


def test_many_groups_of_files(build, write, monkeypatch):
    monkeypatch.setattr("neolm.corpus.ingest.GROUP_BYTES", 30)
    files = [write(f"{n:03d}.txt", f"text number {n}") for n in range(40)]
    assert len(build(files[0].parent).kept) == 40


def test_the_largest_sources_come_first(build, write, monkeypatch):
    monkeypatch.setattr("neolm.corpus.frames.SOURCES_SHOWN", 3)
    records = [{"text": f"text {n}", "source": name} for n, name in enumerate("abbbccddd")]
    assert list(build(write("a.jsonl", records)).counts["sources"].items()) == [("b", 3), ("d", 3), ("c", 2)]


def test_python_standard_library(build, capsys):
    corpus = build(source="python-stdlib", min_characters=10)
    kept = corpus.kept
    assert "def dataclass" in kept["dataclasses.py"].text
    assert {d.source for d in kept.values()} == {"python-stdlib"}
    assert {d.licence for d in kept.values()} == {"PSF-2.0"}
    assert any(name.startswith("pydoc-topics/") for name in kept)
    assert "pydoc_data/topics.py" not in kept
    assert not any("site-packages" in name for name in kept)
    assert len(kept) > 0.95 * corpus.counts["read"]["documents"]
    validation = corpus.counts["validation"]["documents"] / corpus.counts["kept"]["documents"]
    assert 0.02 < validation < 0.09
    assert corpus.counts["mojibake"]
    assert "mojibake" not in capsys.readouterr().err  # those are tests of codecs, not files of the user
