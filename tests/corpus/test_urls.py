"""One document of each URL: which spellings are equal, which document stays, the command line."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from neolm.corpus.urls import normalised_url

SAME = [
    "http://example.org/a?x=1&y=2",
    "https://www.Example.org:443/a/?y=2&x=1&utm_source=news#top",
    " http://example.org:80/%61?x=1&gclid=9&y=2 ",
]
DIFFERENT = [
    "http://example.org/a",
    "http://example.org/A",
    "http://example.org:8080/a",
    "http://example.org/a?x=1",
    "http://example.org/a?x=",
    "http://example.org/#/a",
    "http://example.org/%2561",
    "http://exämple.org/ä",
    "ftp://example.org/a",
    "http://example.org:none/a",
]


def test_spellings_of_a_url():
    assert len({normalised_url(url) for url in SAME}) == 1
    assert len({normalised_url(url) for url in DIFFERENT}) == len(DIFFERENT)
    assert {normalised_url(one) for one in (None, "", " ", 3, ["http://example.org"])} == {None}
    assert normalised_url("http://exämple.org/ä") == normalised_url("http://exämple.org/%C3%A4")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_the_form_is_its_own_form(path):
    once = normalised_url(f"http://example.org/{path}")
    assert once is not None
    once.encode("utf-8")
    assert normalised_url(once) == once


def page(name: str, text: str, url: str, retrieved: str | None = None) -> dict[str, object]:
    return {"id": name, "text": text, "meta": {"url": url, **({"retrieved": retrieved} if retrieved else {})}}


def test_the_latest_then_the_longest_then_the_smallest_id_stays(build, write):
    a, b, c = (f"http://example.org/{name}" for name in "abc")
    records = [
        page("a1", "an old page", a, "2020-01-01T00:00:00Z"),
        page("a2", "a new page", f"{a}/", "2021-01-01T00:00:00Z"),
        page("a3", "a page without a date, which is longer", a),
        page("b1", "short text", b),
        page("b2", "a longer text", b),
        page("c2", "equal length 2", c),
        page("c1", "equal length 1", c),
        {"id": "none", "text": "no address"},
        page("d", "a longer text", "http://example.org/d"),  # an exact duplicate of b2, which stays
        page("e", "nothing else at e", "http://example.org/e"),
    ]
    assert set(build(write("a.jsonl", records)).kept) == {row["id"] for row in records} - {"d"}
    corpus = build(write("a.jsonl", records[::-1]), unique_urls=True)
    assert set(corpus.kept) == {"a2", "b2", "c1", "none", "e"}
    assert corpus.reasons == dict.fromkeys(("a1", "a3", "b1", "c2"), "same_url") | {"d": "duplicate"}
    copies = {name: json.loads(row["metadata"])["duplicate_of"] for name, row in corpus.rejected.items()}
    assert copies == {"a1": "a2", "a3": "a2", "b1": "b2", "c2": "c1", "d": "b2"}


def test_a_copy_of_a_rejected_page_names_the_document_that_is_kept(build, write):
    records = [
        page("x", "first version", "http://example.org/x", "1"),
        page("y", "last version", "http://example.org/x", "2"),
        page("a", "last version", "http://example.org/other"),
    ]
    corpus = build(write("a.jsonl", records), unique_urls=True)
    assert corpus.reasons == {"x": "same_url", "y": "duplicate"}
    assert {json.loads(row["metadata"])["duplicate_of"] for row in corpus.rejected.values()} == {"a"}


def test_the_command_line(neolm_, write, tmp_path):
    path = write("a.jsonl", [page(name, f"page {name} of some words", "http://example.org/") for name in "abc"])
    common = ("corpus", "build", "text", f"corpus.path={path}", f"output={tmp_path / 'run'}")
    code, _, err = neolm_(*common, "corpus.unique_urls=true")
    assert (code, "1 of 3 documents kept" in err, "rejected: same_url 2" in err) == (0, True, True)
    code, out, _ = neolm_("corpus", "inspect", tmp_path / "run", "--id", "b")
    assert code == 0
    assert "rejected    another copy of a page" in out
    assert "remedy      keep all copies with corpus.unique_urls=false" in out
    code, _, err = neolm_(*common, "corpus.unique_urls=sometimes")
    assert (code, len(err.strip().splitlines())) == (2, 1)
