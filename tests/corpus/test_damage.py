"""Damaged files: one table of format, damage and place, with what is kept, the reason and the exit code.

`docs/corpus.md` has the table that `markdown()` makes.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import json
import lzma
import random
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from neolm.core.chunks import DamageError, read_chunks
from neolm.core.errors import InputError
from neolm.corpus.config import CorpusConfig
from neolm.corpus.records import Record, read_records
from neolm.corpus.sources import find_files

DOCUMENTS, GROUP = 1200, 400  # a Parquet file has three row groups
LIMIT = 10_000
PLACES = ("beginning", "middle", "end")
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
FORMATS = (*(kind + packed for kind in (".txt", ".jsonl") for packed in ("", *COMPRESSED)), ".parquet")
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".bz2": bz2.compress,
}
CHECK_SUM = {".gz": slice(-8, -4), ".zst": slice(-4, None), ".xz": slice(-32, -24), ".bz2": slice(-4, -1)}
RECORD_DAMAGE = {  # a record as the JSON of its text
    "text that is not UTF-8": b'"\xff is no UTF-8"',
    "NUL in the text": rb'"a \u0000 byte"',
    "broken JSON": b'"not closed',
    "no text": b"null",
    "more bytes than `corpus.max_document_bytes`": b'"' + b"long " * LIMIT + b'"',
}


def words(seed: int) -> str:
    """A text of letters as frequent as in English, which does not compress well, so that a file has many blocks."""
    letters = random.Random(seed).choices("etaoinshrdlu ", (12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 18), k=400)
    return f"text {seed} {''.join(letters)}"


TEXTS = [words(number) for number in range(DOCUMENTS)]
RECORDS = [json.dumps(text).encode() for text in TEXTS]


@cache
def sound(suffix: str) -> bytes:
    """The content of a sound file."""
    return contents(suffix, good(suffix))


def contents(suffix: str, records: list[bytes]) -> bytes:
    """A file of records, each the JSON of a text."""
    if suffix.startswith(".txt"):
        data = b"\n".join(record.strip(b'"').replace(rb"\u0000", b"\0") for record in records)
    elif suffix == ".parquet":
        return parquet([None if r == b"null" else r.strip(b'"').replace(rb"\u0000", b"\0") for r in records])
    else:
        data = b"".join(b'{"text": ' + record + b"}\n" for record in records)
    return PACK.get(Path(suffix).suffix, bytes)(data)


def parquet(texts: list[bytes | None]) -> bytes:
    sink = pa.BufferOutputStream()
    column = pa.array(texts, pa.binary()).view(pa.string())  # not checked: it may hold bytes that are not UTF-8
    options = {"row_group_size": GROUP, "write_page_checksum": True, "use_dictionary": False}
    pq.write_table(pa.table({"text": column}), sink, **options)
    return sink.getvalue().to_pybytes()


def good(suffix: str) -> list[bytes]:
    """The records of a sound file. A text file is one document; it is shorter than the limit."""
    return RECORDS[:20] if suffix.startswith(".txt") else RECORDS[:]


def with_bad_record(suffix: str, damage: str, place: str) -> bytes | None:
    records = good(suffix)
    if damage == "broken JSON" and ".jsonl" not in suffix:
        return None
    if suffix.startswith(".txt") and (damage == "no text" or ("max_document" in damage and place != "beginning")):
        return None
    at = {"beginning": 0, "middle": len(records) // 2, "end": len(records) - 1}[place]
    records[at] = RECORD_DAMAGE[damage]
    return contents(suffix, records)


def altered(suffix: str, place: str) -> bytes | None:
    if suffix.endswith(".zst") and place != "beginning":  # may be unpacked to altered text; see the test below
        return None
    data = bytearray(sound(suffix))
    at = {"beginning": 30, "middle": len(data) // 2, "end": len(data) - 400}[place]
    end = at + min(400, len(data) // 10)
    data[at:end] = bytes(255 - byte for byte in data[at:end])
    return bytes(data)


def cut(suffix: str, place: str) -> bytes | None:
    if suffix == ".txt":  # nothing tells
        return None
    data = sound(suffix)
    return data[: {"beginning": 12, "middle": len(data) // 2, "end": len(data) - 2}[place]]


def other_check_sum(suffix: str, place: str) -> bytes | None:
    data = bytearray(sound(suffix))
    where = CHECK_SUM.get(Path(suffix).suffix)
    if where is None or place != "end":
        return None
    data[where] = bytes(255 - byte for byte in data[where])
    return bytes(data)


def appended(suffix: str, place: str) -> bytes | None:
    packed = Path(suffix).suffix in PACK and place == "end"
    return sound(suffix) + b"<html>not found</html>" if packed else None


DAMAGES: dict[str, Callable[[str, str], bytes | None]] = {
    **{damage: lambda suffix, place, damage=damage: with_bad_record(suffix, damage, place) for damage in RECORD_DAMAGE},
    "altered bytes in the file": altered,
    "file cut off": cut,
    "wrong check sum": other_check_sum,
    "other bytes after the compressed data": appended,
}


def read(path: Path) -> list[Record]:
    config = CorpusConfig(source="files", path=str(path), max_document_bytes=LIMIT)
    return [record for file in find_files(config, path / "output").files for record in read_records(file, config)]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> dict[tuple[str, str, str], tuple[Path, list[Record]]]:
    """Damage, kind of file and place: the file, of those that are possible, and its records. All are in one folder."""
    folder, found = tmp_path_factory.mktemp("damaged"), {}
    for number, (damage, suffix, place) in enumerate(itertools.product(DAMAGES, FORMATS, PLACES)):
        data = DAMAGES[damage](suffix, place)
        if data is not None:
            path = folder / f"{number}{suffix}"
            path.write_bytes(data)
            found[damage, suffix, place] = path, read(path)
    return found


def outcome(suffix: str, records: list[Record]) -> str:
    """What is kept and why not the rest, as a cell of the table."""
    kept = [record.text for record in records if record.reason is None]
    reasons = sorted({record.reason for record in records if record.reason is not None})
    return ", ".join([*(f"`{reason}`" for reason in reasons), share(kept, suffix)])


def share(kept: list[str], suffix: str) -> str:
    expected = ["\n".join(TEXTS[:20])] if suffix.startswith(".txt") else TEXTS
    if not kept:
        return "nothing"
    if kept == expected:
        return "all"
    assert len(set(kept) - set(expected)) == 0, "altered text is kept"
    if kept == expected[: len(kept)] and len(kept) not in (len(expected) - 1, len(expected) - GROUP):
        return "all before"
    found = set(kept)
    missing = [number for number, text in enumerate(expected) if text not in found]
    assert missing == list(range(missing[0], missing[-1] + 1))
    assert len(missing) <= 2 or len(missing) == GROUP
    return "other row groups" if len(missing) == GROUP else "all others"


def rows(damaged) -> list[tuple[str, str, tuple[str, ...]]]:
    """Damage, files, and the outcomes at the three places. Files with equal outcomes share a row."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for damage, suffix in itertools.product(DAMAGES, FORMATS):
        files = (damaged.get((damage, suffix, place)) for place in PLACES)
        cells = tuple(outcome(suffix, file[1]) if file else "" for file in files)
        if any(cells):
            found.setdefault((damage, cells), []).append(suffix)
    return [(damage, ", ".join(suffixes), cells) for (damage, cells), suffixes in found.items()]


def markdown(damaged) -> str:
    lines = ["| damage | files | at the beginning | in the middle | at the end |", "|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {d} | {files} | {' | '.join(cells)} |" for d, files, cells in rows(damaged)])


def test_the_table_in_the_docs_is_what_the_reader_does(damaged):
    text = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text(encoding="utf-8")
    table = re.search(r"\| damage \| files \|.*?(?=\n\n)", text, re.DOTALL)
    assert table is not None and table[0] == markdown(damaged)


def test_damaged_files_do_not_affect_others_and_alone_are_bad_input(build, damaged, tmp_path):
    """Every file of the table, in a folder with a good one; and alone: exit code 2 if nothing of it is kept."""
    raw = next(path for path, _ in damaged.values()).parent
    (raw / "good.txt").write_text("a good text that stays")
    kept = {record.text for _, records in damaged.values() for record in records if record.reason is None}
    corpus = build(raw, max_document_bytes=LIMIT)
    assert {document.text for document in corpus.kept.values()} == {"a good text that stays", *kept}
    alone = tmp_path / "cut.jsonl.gz"
    alone.write_bytes(cut(".jsonl.gz", "beginning"))
    with pytest.raises(
        InputError, match=r"no document is kept \(truncated 1\); the compressed file ends early"
    ) as caught:
        build(alone)
    assert caught.value.exit_code == 2


# ---- compressed data, compared with the programs ----


def unpack(path: Path, suffix: str) -> tuple[bytes, DamageError | None]:
    """The data before the damage, and the damage."""
    data = b""
    try:
        for chunk in read_chunks(path, suffix, 2**27):
            data += chunk
    except DamageError as error:
        return data, error
    return data, None


def unpacked_by_program(path: Path, suffix: str) -> tuple[bytes, int]:
    program = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bzip2"}[suffix]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, "-dc", path], capture_output=True, check=False)
    return done.stdout, done.returncode


PLAIN = "\n".join(TEXTS).encode()


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize("place", [0.1, 0.45, 0.9, "trailer"])
@pytest.mark.parametrize("damage", ["flip", "cut", "append"])
def test_every_byte_before_a_damage_is_returned(tmp_path, suffix, place, damage):
    data = PACK[suffix](PLAIN) * 2  # two frames
    at = len(data) - 3 if place == "trailer" else int(len(data) * place)
    changed = {
        "flip": data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :],
        "cut": data[:at],
        "append": data + b"<html>"[: at % 6 + 1],
    }[damage]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(changed)
    found, error = unpack(path, suffix)
    by_program, code = unpacked_by_program(path, suffix)
    assert error is not None and (code != 0 or (suffix, damage) == (".bz2", "append"))  # bzip2 ignores other bytes
    assert found[: len(by_program)] == by_program
    if damage == "append":
        assert error.complete and found == PLAIN * 2
    if damage == "cut":
        assert error.reason == "truncated" and (PLAIN * 2).startswith(found)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=2000), st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 9))
def test_gzip_gives_what_inflate_gives_before_the_error(tmp_path_factory, data, place, mask, level):
    packed = bytearray(gzip.compress(data * 3, level, mtime=0))
    packed[10 + place % (len(packed) - 10)] ^= mask  # the header has ten bytes
    path = tmp_path_factory.mktemp("gzip") / "a.gz"
    path.write_bytes(packed)
    found, error = unpack(path, ".gz")
    decoder, expected, rest = zlib.decompressobj(-zlib.MAX_WBITS), b"", bytes(packed[10:])
    with contextlib.suppress(zlib.error):
        while part := decoder.decompress(rest, 1):
            expected += part
            rest = decoder.unconsumed_tail
    assert error is not None or found == data * 3  # the last bits of a stream may have no meaning
    # zlib takes back the byte that it unpacks in the call in which it finds the error, so the oracle may lack one.
    assert found.startswith(expected) and len(found) <= len(expected) + 1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(COMPRESSED), st.binary(max_size=300), st.lists(st.binary(max_size=50), max_size=3))
def test_frames_with_padding_and_other_bytes_never_fail_otherwise(tmp_path_factory, suffix, junk, frames):
    path = tmp_path_factory.mktemp("frames") / f"a{suffix}"
    path.write_bytes(b"".join(PACK[suffix](frame) + b"\0" * (len(frame) % 3) for frame in frames) + junk)
    found, error = unpack(path, suffix)
    assert found.startswith(b"".join(frames))
    assert error is not None or not junk.strip(b"\0") or found != b"".join(frames)


def test_skippable_frames_and_checked_frames(tmp_path):
    path = tmp_path / "a.zst"
    path.write_bytes(b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc" + PACK[".zst"](PLAIN))
    assert unpack(path, ".zst") == (PLAIN, None)


def test_altered_text_behind_a_flipped_byte_is_not_kept(tmp_path):
    """The rest of a member can be unpacked after a flipped byte, but to other lines, some of which are valid JSON."""
    texts = [f"A sentence number {n} {random.Random(n).random()}" for n in range(3000)]
    packed = bytearray(gzip.compress(b"".join(json.dumps({"text": t}).encode() + b"\n" for t in texts), mtime=0))
    packed[len(packed) // 2] ^= 255
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(packed)
    records = read(path)
    kept = [record.text for record in records if record.reason is None]
    assert 1000 < len(kept) < 2000 and kept == texts[: len(kept)]
    assert [record.reason for record in records[len(kept) :]] == ["unreadable"]


def test_a_wrong_check_sum_of_altered_text_is_said(tmp_path):
    """A Zstandard block can be altered so that it is still valid. Only the check sum at the end tells."""
    packed = PACK[".zst"](b'{"text": "first text"}\n{"text": "second text"}\n')
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(packed.replace(b"first", b"fxrst"))
    records = read(path)
    assert [(r.text, r.reason) for r in records] == [("fxrst text", None), ("second text", None), ("", "unreadable")]
    assert "the check sum is wrong, so some of the text may be altered" in records[2].metadata


def test_a_broken_line_in_a_sound_file_is_only_a_broken_line(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "one"}\n{"te\n{"text": "two"}\n') + b"<html>")
    assert [(r.text, r.reason) for r in read(path)] == [
        ("one", None), ('{"te', "broken_json"), ("two", None), ("", "unreadable"),
    ]  # fmt: skip


def test_a_file_that_makes_a_library_fail_ends_with_a_reason(tmp_path, monkeypatch):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a text")

    def fail(path, *_):
        if path.name == "a.txt":
            raise SystemError("unknown\nmore")
        yield b"a text"

    monkeypatch.setattr("neolm.corpus.records.read_chunks", fail)
    found = {record.id: (record.reason, record.metadata) for record in read(tmp_path)}
    assert found["a.txt"] == ("unreadable", '{"error": "unknown"}')
    assert found.keys() == {"a.txt", "b.txt"}
    assert found["b.txt"][0] is None
