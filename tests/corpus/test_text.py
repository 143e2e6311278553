"""Normalisation, division into parts, and mojibake."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.text_encoding import is_storable, storable
from neolm.corpus.documents import read_documents
from neolm.corpus.frames import part_ids
from neolm.corpus.text import clean, has_mojibake, split_text

TEXTS = st.text(st.sampled_from("ab .\n\r\u0301é\ufeff世"), max_size=60) | st.text(max_size=60)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("e\u0301", "é"),
        ("\ufeffstart", "start"),
        ("in\ufeffside", "in\ufeffside"),
        ("\ufb01", "\ufb01"),  # NFC, not NFKC: a ligature stays
    ],
)
def test_clean(raw, text):
    assert clean(raw) == text


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize(
    "text", ["café", "à la carte", "50 °C", "it’s “good”", "a – b…", "привет", "你好世界", "Ærø, año, über", "\ufffd"]
)
def test_utf8_read_in_another_encoding_is_mojibake(text, encoding):
    assert has_mojibake(text.encode("utf-8").decode(encoding, "replace"))
    assert has_mojibake(text) == (text == "\ufffd")


@pytest.mark.parametrize(
    "text", ["« café »…", "«IRMû, NÃO", "«là»…", "„Maß“…", "PÂ”", "日本語。「猫」", "Ísland, Ð. Þór", "â", "é…”", ""]
)
def test_other_languages_and_their_punctuation_are_not_mojibake(text):
    assert not has_mojibake(text)


@given(TEXTS)
def test_clean_is_idempotent_and_normalised(raw):
    text = clean(raw)
    assert clean(text) == text
    assert unicodedata.is_normalized("NFC", text)
    assert "\r" not in text


@given(TEXTS, st.integers(1, 30))
def test_split_is_lossless_and_within_the_limit(text, limit):
    parts = split_text(text, limit)
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)
    assert all(parts) or text == ""


def test_split_prefers_paragraphs_then_lines_then_words():
    assert split_text("one.\n\ntwo three\nfour", 16) == ["one.\n\n", "two three\nfour"]
    assert split_text("one two\nthree four", 12) == ["one two\n", "three four"]
    assert split_text("one two three", 9) == ["one two ", "three"]
    assert split_text("abcdef", 4) == ["abcd", "ef"]


@given(st.text(st.characters(exclude_categories=[]), max_size=20))
def test_storable_can_be_encoded_and_changes_nothing_else(text):
    assert is_storable(storable(text))
    assert (storable(text) == text) == is_storable(text)


@given(st.sets(st.tuples(st.sampled_from(["a", "a#0", "a#1", "a#0#0", "b#x"]), st.just(0)), max_size=5), st.data())
def test_part_ids_never_collide(documents, data):
    ids = [part for name, _ in documents for part in part_ids(name, data.draw(st.integers(1, 3)))]
    assert len(ids) == len(set(ids))


def test_documents_are_divided_in_order_and_without_loss(build, write):
    book = "\n\n".join(f"Chapter {n}. " + "It was a dark night. " * (n % 5) for n in range(60))
    corpus = build(write("book.txt", book), split_characters=300)
    parts = {int(name.removeprefix("book.txt#")): d.text for name, d in corpus.kept.items()}
    assert "".join(parts[n] for n in range(len(parts))) == book
    assert len(parts) > 10
    order = [int(d.id.removeprefix("book.txt#")) for d in read_documents(corpus.directory, "train")]
    assert order == sorted(order)  # by number: #2 before #10
    assert corpus.counts["kept"] == {"documents": 1, "parts": len(parts), "bytes": len(book)}
    assert {d.parent for d in corpus.kept.values()} == {"book.txt"}


def test_short_documents_keep_their_ids(build, write):
    raw = write("a.txt", "short enough").parent
    write("b.txt", "this one is too long for the limit")
    assert set(build(raw, split_characters=20).kept) == {"a.txt", "b.txt#0", "b.txt#1"}


def test_rejected_documents_are_not_divided(build, write):
    raw = write("a.txt", "the very same text in both of them").parent
    write("b.txt", "the very same text in both of them")
    corpus = build(raw, split_characters=20)
    assert set(corpus.kept) == {"a.txt#0", "a.txt#1"}
    assert corpus.rejected["b.txt"]["text"] == "the very same text in both of them"
    assert corpus.counts["rejected"] == {"duplicate": {"documents": 1, "bytes": 34}}
