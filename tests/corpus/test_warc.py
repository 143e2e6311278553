"""Web archives: pages and texts with their origin; a broken record does not stop the others."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import zlib

import pytest
from sample_pages import page

from neolm.core.chunks import DamageError
from neolm.formats.warc import read_warc

DATE = "2026-05-18T01:58:10Z"


def record(kind: str, body: bytes, url: str = "", mime: str = "application/http; msgtype=response", **headers) -> bytes:
    lines = [f"WARC-Type: {kind}", f"WARC-Date: {DATE}", f"Content-Type: {mime}", f"Content-Length: {len(body)}"]
    lines += [f"WARC-Target-URI: {url}"] if url else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return b"WARC/1.0\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"\r\n\r\n"


def response(data: bytes, mime: str = "text/html", status: str = "200 OK", **headers) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {mime}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def chunked(data: bytes) -> bytes:
    parts = [data[n : n + 100] for n in range(0, len(data), 100)]
    return b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


HTML = page().encode()
OTHERS = [
    page(text * 9).encode() for text in ("A chunked page of rivers. ", "A packed page of hills. ", "Deflated seas. ")
]
RESPONSES = [
    response(HTML),
    response(page().replace("é", "e").encode("cp1252"), "text/html; charset=Windows-1252"),
    response(chunked(OTHERS[0]), Transfer_Encoding="chunked"),
    response(gzip.compress(OTHERS[1]), Content_Encoding="gzip"),
    response(zlib.compress(OTHERS[2]), Content_Encoding="deflate"),
    response(b"plain words of a text", "text/plain"),
    response(b"", status="301 Moved", Location="/x"),
    response(b"<p>not found</p>", status="404 Not Found"),
    response(b"\xff\xd8\xff", "image/jpeg"),
    response(b"x", Content_Encoding="br"),
]
RECORDS = [
    record("warcinfo", b"software: test", mime="application/warc-fields"),
    record("request", b"GET / HTTP/1.1\r\n\r\n", "http://a.org/1", "application/http; msgtype=request"),
    *(record("response", body, f"http://a.org/{number}") for number, body in enumerate(RESPONSES, start=1)),
    record("conversion", "A converted text, größer.".encode(), "http://a.org/11", "text/plain"),
    record("conversion", b"not UTF-8 \xff", "http://a.org/12", "text/plain"),
    record("resource", HTML.replace(b"heading", b"resource"), "file:///a.html", "text/html"),
]


@pytest.mark.parametrize("form", ["plain", "one member", "a member each", "xz"])
def test_records_become_documents_with_their_origin(build, write, tmp_path, form):
    data = b"".join(RECORDS)
    if form == "a member each":
        path = write("a.warc", b"").with_name("a.warc.gz")
        path.write_bytes(b"".join(gzip.compress(one, mtime=0) for one in RECORDS))
    else:
        path = write({"plain": "a.warc", "one member": "a.warc.gz", "xz": "a.warc.xz"}[form], data)
    corpus = build(path, licence="CC0-1.0")
    kept = {name.removeprefix(f"{path.name}:"): document for name, document in corpus.kept.items()}
    urls = [f"http://a.org/{n}" for n in (1, 2, 3, 4, 5, 6, 11)]
    assert sorted(kept) == sorted([*urls, "file:///a.html"])
    assert "Zürich" in kept["http://a.org/1"].text and "Zürich" in kept["http://a.org/2"].text
    for number, words in ((3, "of rivers"), (4, "of hills"), (5, "Deflated seas"), (6, "plain words"), (11, "größer")):
        assert words in kept[f"http://a.org/{number}"].text
    facts = json.loads(kept["http://a.org/1"].metadata)
    assert facts == {
        "url": "http://a.org/1", "retrieved": DATE, "mime": "text/html", "encoding": "utf-8", "encoding_from": "valid",
        "extractor": "trafilatura", "digest": f"sha256:{hashlib.sha256(HTML).hexdigest()}",
    }  # fmt: skip
    assert json.loads(kept["http://a.org/2"].metadata)["encoding"] == "cp1252"
    assert (kept["http://a.org/1"].source, kept["http://a.org/1"].licence) == (path.name, "CC0-1.0")
    assert {name.rpartition("/")[2]: reason for name, reason in corpus.reasons.items()} == {
        "8": "http_error", "9": "other_format", "10": "other_format", "12": "broken_utf8",
    }  # fmt: skip


def items(data: bytes, limit: int = 2**20) -> list[tuple[str, str]]:
    chunks = [data[n : n + 1000] for n in range(0, len(data), 1000)]
    return [(item.name, item.damage.reason if item.damage else item.kind) for item in read_warc(chunks, limit)]


def test_titles_and_descriptions_of_wat():
    head = {"Title": "A title", "Metas": [{"name": "description", "content": "What it is."}, {"name": "x"}]}
    body = {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Head": head}}}}}
    about = record("metadata", json.dumps(body).encode(), "http://a.org/", "application/json")
    for other in ({}, [], {"Envelope": {"Payload-Metadata": {"HTTP-Request-Metadata": {}}}}):
        about += record("metadata", json.dumps(other).encode(), "http://a.org/", "application/json")
    found = list(read_warc([about], 2**20))
    assert [item.data for item in found] == [b"A title\nWhat it is."]


def test_a_broken_record_does_not_stop_the_others():
    good = [record("conversion", b"a text", f"http://a/{number}", "text/plain") for number in (1, 2)]
    damaged = b"\x1f\x8b\x08" + b"\xff" * 60
    sha1 = base64.b32encode(hashlib.sha1(b"a text").digest()).decode()
    for bad, expected in (
        (b"garbage without sense\r\nmore of it\r\n\r\n", ("2", "broken_record")),
        (b"WARC/1.0\r\nWARC-Type: response\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", ("2", "broken_record")),
        (b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: -5\r\n\r\nabc\r\n", ("2", "broken_record")),
        (record("conversion", b"a tixt", "u", "text/plain", WARC_Block_Digest=f"sha1:{sha1}"), ("u", "broken_record")),
        (record("response", response(damaged, Content_Encoding="gzip"), "u"), ("u", "broken_record")),
        (record("response", response(gzip.compress(b"a" * 2**22), Content_Encoding="gzip"), "u"), ("u", "too_large")),
        (record("response", response(b"a" * 2**21), "u"), ("u", "too_large")),
        (record("response", b"", "u"), None),
        (record("response", b"\0\xff", "u"), ("u", "http_error")),
        (b"\r\n" * 50, None),
    ):  # fmt: skip
        found = items(good[0] + bad + good[1])
        assert found == [("http://a/1", "text"), *([expected] if expected else []), ("http://a/2", "text")], bad[:60]
    sound = record("conversion", b"a text", "u", "text/plain", WARC_Block_Digest=f"sha1:{sha1}")
    assert items(sound) == [("u", "text")]


def test_a_truncated_archive_ends_with_a_reason(tmp_path):
    data = b"".join(RECORDS[:3])
    with pytest.raises(DamageError, match="within record 3") as caught:
        items(data[:-200])
    assert caught.value.reason == "truncated"


def test_mutated_archives_give_records_or_reasons(tmp_path):
    whole = b"".join(RECORDS)
    for seed in range(300):
        chance = random.Random(seed)
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(len(data))
            data[place : place + chance.choice([0, 1, 1, 40])] = chance.randbytes(chance.choice([0, 1, 1, 5]))
        try:
            assert all(isinstance(name, str) for name, _ in items(bytes(data), 2**16))
        except DamageError as damage:
            assert damage.reason == "truncated"


def test_text_in_other_encodings_of_an_archive(build, write):
    text = "Сегодня утром в порту было тихо, и кафе у старого моста открылось поздно. "
    data = record("response", response((text * 3).encode("cp1251"), "text/plain; charset=windows-1251"), "http://r/")
    corpus = build(write("a.warc", data))
    assert [document.text for document in corpus.kept.values()] == [text * 3]


def test_records_are_read_one_at_a_time(tmp_path, monkeypatch):
    """An archive in memory would be read to its end before its first record is given."""
    taken = []

    def chunks():
        for number in range(100):
            taken.append(number)
            yield record("conversion", b"a text", f"http://a/{number}", "text/plain")

    next(read_warc(chunks(), 2**20))
    assert len(taken) <= 2


def test_an_id_is_never_too_long(tmp_path, build, write):
    url = "http://a.org/" + "x" * 10_000
    corpus = build(write("a.warc", record("conversion", b"a text of words", url, "text/plain")))
    assert [len(name) for name in corpus.kept] == [4096]
