"""Web pages become text: the main part, whatever the encoding; a hostile page does not affect the others."""

from __future__ import annotations

import hashlib
import json

import pytest
from sample_pages import TEXT, page

from neolm.core.chunks import DamageError
from neolm.core.errors import InputError
from neolm.formats import pages
from neolm.formats.pages import extract


@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
def test_the_main_text_is_kept_with_code_and_tables(build, write, extractor):
    raw = write("a.html", page()).parent
    write("b.htm.gz", page("Another text about a river and the people who live there. " * 5))
    corpus = build(raw, extractor=extractor)
    text = corpus.kept["a.html"].text
    assert text.count("Zürich") >= 4 and "    return x + 1" in text and "A heading" in text
    assert "Ann" in text and "31" in text
    for left_out in ("ignored", "About this site", "cookies", "<p>"):
        assert left_out not in text
    found = json.loads(corpus.kept["a.html"].metadata)
    assert found == {
        "digest": "sha256:" + hashlib.sha256(page().encode()).hexdigest(),
        "encoding": "utf-8", "encoding_from": "valid", "extractor": extractor,
    }  # fmt: skip
    assert "river" in corpus.kept["b.htm.gz"].text


def test_lists_are_readable():
    text = extract(page().encode(), "trafilatura")["text"]
    assert "- the first item of the list\n- the second item of the list" in text
    assert "| Ann | 31 |" in text


@pytest.mark.parametrize(
    ("encoding", "meta", "charset", "how"),
    [
        ("utf-8", "", "", "valid"),
        ("utf-8", '<meta charset="iso-8859-1">', "", "valid"),  # declared wrongly
        ("utf-8-sig", "", "", "mark"),
        ("utf-16", "", "", "mark"),
        ("cp1252", '<meta charset="iso-8859-1">', "", "declared"),
        ("cp1252", "", "windows-1252", "declared"),
        ("cp1252", '<meta charset="utf-8">', "", "sniffed"),
        ("cp1252", '<meta charset="no-such-encoding">', "", "sniffed"),
        ("cp1252", "", "", "sniffed"),
    ],
)
def test_encodings(encoding, meta, charset, how):
    found = extract(page(meta=meta).encode(encoding), "trafilatura", charset)
    assert TEXT.strip() in found["text"]
    assert found["encoding_from"] == how


def test_other_scripts_in_their_encodings():
    russian = "Сегодня утром в порту было тихо, и кафе у старого моста открылось поздно. " * 4
    japanese = "今朝の港は静かで、古い橋の近くの喫茶店は遅く開いた。" * 8
    for text, encoding, label in ((russian, "cp1251", "windows-1251"), (japanese, "shift_jis", "x-sjis")):
        for charset in (label, ""):
            found = extract(page(text).encode(encoding, "replace"), "trafilatura", charset)
            assert text.strip()[:60] in found["text"]
    declared = '<meta http-equiv="Content-Type" content="text/html; charset=iso-2022-jp">'
    assert japanese[:40] in extract(page(japanese, declared).encode("iso2022_jp"), "trafilatura")["text"]


def test_a_page_that_is_cut_within_a_character_is_utf8():
    data = page().encode()
    cut = data[: data.rindex("é".encode()) + 1]
    assert extract(cut, "trafilatura")["encoding"] == "utf-8"


def test_the_other_extractor_is_tried_where_one_finds_little():
    form = "<form><p>" + TEXT * 4 + "</p></form>"
    found = {first: extract(form.encode(), first) for first in ("trafilatura", "resiliparse")}
    assert all(TEXT.strip() in page["text"] for page in found.values())
    short = extract(b"<p>only a few words</p>", "trafilatura")
    assert short["text"] == "only a few words"


HOSTILE = {
    "empty.html": b"",
    "nothing.html": b"<html><body></body></html>",
    "script.html": b"<script>" + b"x" * 10_000,
    "picture.html": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 20,
}


def test_hostile_pages_do_not_affect_the_others(build, write):
    for name, data in HOSTILE.items():
        raw = write(name, data).parent
    write("cut.html.gz", page()).write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\3\x01")
    write("spans.html", page() + "<table><tr><td colspan=9000000000000000>a</td></tr></table>")
    write("zeros.html", page(TEXT.replace("harbour", "har\0bour") * 3))
    write("good.html", page("A good page about a garden with many old trees. " * 6))
    corpus = build(raw)
    assert {name: corpus.reasons.get(name) for name in HOSTILE if name != "picture.html"} == {
        "empty.html": "not_extracted", "nothing.html": "not_extracted", "script.html": "not_extracted",
    }  # fmt: skip
    assert corpus.reasons["cut.html.gz"] == "truncated"
    assert {"spans.html", "zeros.html", "good.html"} <= set(corpus.kept)
    assert "harbour" in corpus.kept["zeros.html"].text


@pytest.mark.parametrize("unit", ["<div>", "<b><i>", "<table><tr><td>", "<ul><li>"])
def test_deeply_nested_pages_end(unit):
    try:
        assert "deep" in extract((unit * 3000 + "deep words " * 40).encode(), "trafilatura")["text"]
    except DamageError as damage:
        assert damage.reason == "not_extracted"
    assert TEXT.strip() in extract(page().encode(), "trafilatura")["text"]


@pytest.fixture
def small_limits(tmp_path, monkeypatch):
    """The worker with little time and memory, in a copy of its script."""
    script = tmp_path / "page_worker.py"
    source = pages.Path(pages.__file__).with_name("page_worker.py").read_text()
    script.write_text(source.replace("CPU_SECONDS = 20.0", "CPU_SECONDS = 0.7"))
    monkeypatch.setattr(pages, "SCRIPT", script)
    monkeypatch.setattr(pages, "_idle", [])
    yield
    while pages._idle:
        pages._idle.pop().close()


def test_a_page_that_takes_too_long_is_refused_and_the_next_one_is_read(small_limits):
    with pytest.raises(DamageError, match="takes too much time") as caught:
        extract(b"<div>" * 100_000 + b"text " * 100, "resiliparse")
    assert caught.value.reason == "not_extracted"
    assert TEXT.strip() in extract(page().encode(), "resiliparse")["text"]


def test_a_large_page_is_refused(monkeypatch):
    monkeypatch.setattr(pages, "PAGE_BYTES", 1000)
    with pytest.raises(DamageError, match="more than 1,000 bytes") as caught:
        extract(page().encode(), "trafilatura")
    assert caught.value.reason == "too_large"


def test_a_page_is_a_document_within_its_limit(build, write):
    raw = write("a.html.gz", page("word " * 2000)).parent
    write("b.html", page())
    corpus = build(raw, max_document_bytes=5000)
    assert (corpus.reasons, list(corpus.kept)) == ({"a.html.gz": "too_large"}, ["b.html"])


def test_missing_packages_are_named(build, write, monkeypatch):
    monkeypatch.setattr("neolm.corpus.sources.is_installed", lambda: False)
    with pytest.raises(InputError, match=r"pip install 'neolm\[corpus\]'"):
        build(write("a.html", page()))
    assert list(build(write("b/a.txt", "a good text").parent).kept) == ["a.txt"]
