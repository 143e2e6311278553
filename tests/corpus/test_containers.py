"""Tables, archives, mailboxes and MediaWiki dumps: a bad document does not stop the others."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from sample_pages import page

from neolm.core.chunks import DamageError
from neolm.core.errors import InputError
from neolm.corpus.config import CorpusConfig
from neolm.corpus.records import Record, read_records
from neolm.corpus.sources import find_files
from neolm.formats.archives import read_tar
from neolm.formats.mailbox import read_mbox
from neolm.formats.mediawiki import read_wiki


def read(path: Path, limit: int = 2**20) -> list[Record]:
    config = CorpusConfig(source="files", path=str(path), max_document_bytes=limit)
    return [record for file in find_files(config, path / "none").files for record in read_records(file, config)]


def outcomes(path: Path, limit: int = 2**20) -> list[tuple[str, str]]:
    """The id and the text of each record, or its reason."""
    return [(record.id, record.reason or record.text) for record in read(path, limit)]


# ---- tables ----


@pytest.mark.parametrize(
    ("name", "separator"), [("a.csv", ","), ("a.csv", ";"), ("a.csv.gz", "|"), ("a.tsv.bz2", "\t"), ("a.csv", "\t")]
)
def test_rows_with_a_column_of_text(build, write, name, separator):
    rows = ["id_text_licence", '7_"a text, with; every|separator\tin it"_MIT', '_"two\nlines and ""quotes"""_', "8__"]
    kept = build(write(name, "\n".join(rows).replace("_", separator))).kept
    assert {key: (d.text, d.licence) for key, d in kept.items()} == {
        "7": ("a text, with; every|separator\tin it", "MIT"),
        f"{name}:3": ('two\nlines and "quotes"', "unknown"),
    }


def test_a_bad_row_does_not_stop_the_others(write):
    data = b'id,text\n1,one\n2,too,many\n3,"not closed\n4,a\0b\n5,five\n'
    found = outcomes(write("a.csv", data))
    assert found == [
        ("1", "one"), ("a.csv:3", "broken_record"), ("a.csv:4", "broken_record"), ("a.csv:5", "broken_record"),
        ("5", "five"),
    ]  # fmt: skip


def test_tables_of_excel_and_tables_without_the_column(write, build):
    assert outcomes(write("a.csv", "id;text\r\n1;größe\r\n".encode("cp1252"))) == [("1", "größe")]
    assert outcomes(write("b.csv", "id\ttext\r\n1\tgröße\r\n".encode("utf-16"))) == [("1", "größe")]
    assert [reason for _, reason in outcomes(write("c.csv", "id,body\n1,words\n"))] == ["missing_text"]
    assert len(build(write("d.csv", "id,body\n1,some words\n"), text_key="body").kept) == 1
    assert [reason for _, reason in outcomes(write("e.csv", b"PK\x03\x04\0\0\0"))] == ["unreadable"]


def test_a_table_that_is_cut_off(write):
    path = write("a.csv.gz", "id,text\n" + "".join(f"{n},{random.Random(n).random()}\n" for n in range(2000)))
    path.write_bytes(path.read_bytes()[:9000])
    found = outcomes(path)
    assert 500 < len(found) < 2000
    assert found[-1][1] == "truncated" and not {"truncated", "broken_record"} & {text for _, text in found[:-1]}


# ---- archives ----

MEMBERS = {
    "a.txt": b"a first text",
    "deep/b.jsonl.gz": gzip.compress(b'{"text": "a second text"}\n{"text": 3}\n'),
    "c.html": page().encode(),
    "../../etc/d.md": b"a text with a strange name",
    "/abs/e.csv": b"id,text\n1,a row of a table\n",
    "f.png": b"\x89PNG",
    "inner.zip": b"PK\x05\x06",
    "g.txt": b"not UTF-8 \xff",
    "long/" + "x" * 150 + "/h.txt": b"a text with a long name",
}


def zipped(members=MEMBERS, method=zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        archive.mkdir("deep")
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def tarred(members=MEMBERS, format=tarfile.PAX_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zipped()),
        ("a.zip", zipped(method=zipfile.ZIP_LZMA)),
        ("a.tar", tarred()),
        ("a.tar.gz", tarred(format=tarfile.GNU_FORMAT)),
        ("a.tar.xz", tarred()),
    ],
)
def test_members_are_read_as_files(write, name, data):
    before = set(Path.cwd().iterdir())
    records = {record.id: record for record in read(write(name, data))}
    texts = {key.removeprefix(f"{name}/"): record.reason or record.text for key, record in records.items()}
    assert "Zürich" in texts.pop("c.html")
    assert texts == {
        "a.txt": "a first text",
        "deep/b.jsonl.gz:1": "a second text",
        "deep/b.jsonl.gz:2": "missing_text",
        "../../etc/d.md": "a text with a strange name",
        "1": "a row of a table",
        "f.png": "other_format",
        "inner.zip": "other_format",
        "g.txt": "broken_utf8",
        "long/" + "x" * 150 + "/h.txt": "a text with a long name",
    }
    assert set(Path.cwd().iterdir()) == before


def test_a_damaged_member_does_not_stop_the_others(write):
    members = {"a.txt": b"first " * 50, "b.txt": b"second " * 50, "c.txt": b"third " * 50}
    data = bytearray(zipped(members, zipfile.ZIP_STORED))
    data[data.index(b"second ")] ^= 1
    found = dict(outcomes(write("a.zip", bytes(data))))
    assert found == {"a.zip/a.txt": "first " * 50, "a.zip/b.txt": "unreadable", "a.zip/c.txt": "third " * 50}
    tar = bytearray(tarred(members))
    at = tar.index(b"b.txt")
    tar[at : at + 300] = b"\xff" * 300
    found = dict(outcomes(write("a.tar", bytes(tar))))
    assert found == {"a.tar/a.txt": "first " * 50, "a.tar/?": "broken_record", "a.tar/c.txt": "third " * 50}


def test_bombs_and_cut_archives(write):
    large = {"a.txt": b"a text", "b.txt": random.Random(0).randbytes(2**20).hex().encode(), "c.txt": b"c text"}
    for name, data in (("a.zip", zipped(large)), ("a.tar.gz", tarred(large))):
        found = outcomes(write(name, data), limit=2**20)
        assert found == [(f"{name}/a.txt", "a text"), (f"{name}/b.txt", "too_large"), (f"{name}/c.txt", "c text")]
    many = zipped({f"{n}.txt": b"word " * 2**17 for n in range(100)})
    found = outcomes(write("b.zip", many), limit=2**20)
    assert found[-1] == ("b.zip", "too_large") and len(found) < 60
    assert outcomes(write("c.zip", zipped()[:-40])) == [("c.zip", "unreadable")]
    assert outcomes(write("d.tar", tarred(large)[:3000]))[-1] == ("d.tar", "truncated")
    encrypted = bytearray(zipped({"a.txt": b"a text"}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.rindex(mark) + place] |= 1
    assert outcomes(write("e.zip", bytes(encrypted))) == [("e.zip/a.txt", "unreadable")]


def test_a_header_of_tar_that_claims_a_large_name_takes_little_memory():
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**30
    chunks = [info.tobuf(), *[b"\0" * 2**16] * (2**30 // 2**16), tarred({"a.txt": b"a text"})]
    assert [item.name for item in read_tar(chunks, 2**20)] == ["a.txt"]


# ---- mailboxes ----

MBOX = b"""From a@example.org Thu Jan  1 00:00:00 2026
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
Date: Thu, 01 Jan 2026 00:00:00 +0000
Content-Type: text/plain; charset=iso-8859-1

A message with gr\xfc\xdfe.
>From here on it is quoted.

From b@example.org Thu Jan  1 00:00:00 2026
Content-Type: multipart/mixed; boundary=X

--X
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: base64

QSBtZXNzYWdlIGluIGJhc2U2NC4=
--X
Content-Type: image/png

binary
--X--

From c@example.org Thu Jan  1 00:00:00 2026
Content-Type: image/png

no text

From d@example.org Thu Jan  1 00:00:00 2026

The last message.
"""


def test_messages(build, write):
    corpus = build(write("a.mbox", MBOX))
    texts = {key: document.text for key, document in corpus.kept.items()}
    assert texts == {
        "a.mbox:1": "A message with grüße.\nFrom here on it is quoted.\n\n",
        "a.mbox:2": "A message in base64.",
        "a.mbox:4": "The last message.\n",
    }
    assert corpus.reasons == {"a.mbox:3": "missing_text"}
    facts = json.loads(corpus.kept["a.mbox:1"].metadata)
    assert (facts["subject"], facts["date"][:16]) == ("Grüße", "Thu, 01 Jan 2026")
    assert "example.org" not in json.dumps(facts)


def test_hostile_mailboxes(write):
    assert outcomes(write("a.mbox", "no mail at all\n")) == [("a.mbox", "other_format")]
    long = b"From x\n\n" + b"word " * 1000 + b"\n\nFrom y\n\nshort\n"
    assert outcomes(write("b.mbox", long), limit=1000) == [("b.mbox:1", "too_large"), ("b.mbox:2", "short\n")]
    deep = b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(3000))
    found = outcomes(write("c.mbox", b"From x\n" + deep + b"\n\nFrom y\n\nafter it\n"))
    assert found[-1] == ("c.mbox:2", "after it\n")


# ---- MediaWiki ----


def article(title: str, text: str, ns: int = 0, more: str = "", model: str = "wikitext") -> str:
    return (
        f"<page><title>{title}</title><ns>{ns}</ns><id>1</id>{more}<revision><timestamp>2026-01-01T00:00:00Z</timestamp>"
        f"<model>{model}</model><text bytes='9'>{text}</text></revision></page>\n"
    )


TEXT = (
    "'''Zürich''' is a [[city|large city]] in {{nowrap|Switzerland}}.&lt;ref&gt;A source&lt;/ref&gt;\n\n== History ==\n"
    "[[File:A.jpg|thumb|A picture]] It is old.\n{| class=x\n| cell\n|}\n[[Category:Cities]]"
)
DUMP = (
    "<mediawiki xml:lang='en'><siteinfo><base>https://en.example.org/wiki/Main_Page</base></siteinfo>\n"
    + article("Zürich &amp; more", TEXT)
    + article("Talk:Zürich", "talk", ns=1)
    + article("Zurich", "#REDIRECT [[Zürich]]", more="<redirect title='Zürich' />")
    + article("Style", "a {}", model="css")
    + article("Broken", "a &nonsense; b")
    + article("Last", "The last article.")
    + "</mediawiki>"
)


@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2", "a.xml.gz"])
def test_articles(build, write, name):
    corpus = build(write(name, DUMP))
    document = corpus.kept[f"{name}:Zürich & more"]
    assert document.text.startswith("Zürich is a large city in")
    assert "It is old." in document.text and "History" in document.text
    for left_out in ("source", "picture", "cell", "Cities", "{{", "[["):
        assert left_out not in document.text
    facts = json.loads(document.metadata)
    assert facts["url"] == "https://en.example.org/wiki/Z%C3%BCrich_%26_more"
    assert (facts["title"], facts["revised"]) == ("Zürich & more", "2026-01-01T00:00:00Z")
    assert facts["digest"].startswith("sha256:")
    assert corpus.kept[f"{name}:Last"].text == "The last article."
    assert {key.partition(":")[2]: reason for key, reason in corpus.reasons.items()} == {
        "Talk:Zürich": "not_article", "Zurich": "not_article", "Style": "not_article", "5": "broken_record",
    }  # fmt: skip


def test_hostile_dumps(write):
    assert outcomes(write("a.xml", "<feed><entry/></feed>")) == [("a.xml", "other_format")]
    cut = DUMP.encode()[:-60]
    assert outcomes(write("b.xml", cut))[-1] == ("b.xml", "truncated")
    large = article("A", "word " * 1000) + article("B", "short")
    assert outcomes(write("c.xml", large), limit=1000) == [("c.xml:1", "too_large"), ("c.xml:B", "short")]
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
    )
    found = outcomes(write("d.xml", bomb + "]>" + article("A", "&j;") + article("B", "good words")))
    assert found == [("d.xml:1", "broken_record"), ("d.xml:B", "good words")]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_pages_do_not_depend_on_the_chunks(size):
    data = DUMP.encode()
    items = list(read_wiki((data[n : n + size] for n in range(0, len(data), size)), 2**20))
    assert [item.name for item in items] == ["Zürich & more", "Talk:Zürich", "Zurich", "Style", "5", "Last"]


def mutated(data: bytes, seed: int) -> bytes:
    chance, changed = random.Random(seed), bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(changed))
        changed[place : place + chance.choice([0, 1, 1, 40])] = chance.randbytes(chance.choice([0, 1, 1, 5]))
    return bytes(changed)


def test_mutated_files_give_items_or_a_damage(tmp_path, write):
    for reader, data in ((read_mbox, MBOX), (read_wiki, DUMP.encode()), (read_tar, tarred())):
        for seed in range(150):
            changed = mutated(data, seed)
            try:
                assert all(isinstance(item.data, bytes) for item in reader([changed], 2**16))
            except DamageError as damage:
                assert damage.reason in ("truncated", "other_format", "broken_record", "too_large")
    for seed in range(100):
        small = zipped({"a.txt": b"a text", "b.txt": zlib.compress(b"x")})
        assert all(isinstance(text, str) for _, text in outcomes(write("m.zip", mutated(small, seed))))


def test_nothing_of_an_archive_is_kept(build, write):
    with pytest.raises(InputError, match=r"no document is kept \(other_format 1\); give"):
        build(write("a.zip", zipped({"a.png": b"x"})))
    assert bz2.decompress(write("b.xml.bz2", DUMP).read_bytes()) == DUMP.encode()
