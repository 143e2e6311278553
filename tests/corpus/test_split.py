"""Train and validation: whole documents, chosen by the id alone; neither split is empty if there are two documents."""

from __future__ import annotations

import re

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolm.corpus.frames import validation_score, validation_threshold

SCORES = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30, unique=True)
FRACTIONS = st.floats(0.001, 0.999)


@given(SCORES, FRACTIONS)
def test_threshold(scores, fraction):
    threshold = validation_threshold(len(scores), min(scores), max(scores), fraction)
    validation = {score for score in scores if score < threshold}
    plain = {score for score in scores if score < fraction}
    if len(scores) == 1:
        assert not validation
    elif not plain:
        assert validation == {min(scores)}
    elif len(plain) == len(scores):
        assert validation == plain - {max(scores)}
    else:
        assert validation == plain


@given(st.text(max_size=20))
def test_score_is_a_function_of_the_id_in_the_unit_interval(name):
    assert 0 <= validation_score(name) < 1
    assert validation_score(name) == validation_score("".join(name))


def test_score_is_stable_and_uniform():
    assert (
        validation_score("dataclasses.py") == 0.6870829696617622
    )  # stored: a change moves every document of every corpus
    below = sum(validation_score(f"{n}.txt") < 0.05 for n in range(20_000))
    assert 900 < below < 1100


def test_a_document_stays_in_its_split_when_the_corpus_grows(build, write, tmp_path):
    records = [{"text": f"text number {n}", "id": n} for n in range(300)]
    small = build(write("small.jsonl", records[:150]), output=tmp_path / "small", validation_fraction=0.3)
    large = build(write("large.jsonl", records), output=tmp_path / "large", validation_fraction=0.3)
    validation = {d.id for d in small.split("validation")}
    assert validation == {d.id for d in large.split("validation") if int(d.id) < 150}
    assert 30 < len(validation) < 60
    assert validation.isdisjoint({d.id for d in small.split("train")})


def test_two_documents_are_in_different_splits(build, write):
    path = write("two.jsonl", [{"text": "one text"}, {"text": "other text"}])
    for fraction in (0.001, 0.999):
        corpus = build(path, validation_fraction=fraction)
        assert [len(corpus.split("train")), len(corpus.split("validation"))] == [1, 1]


def words(name: str, number: int) -> str:
    return "\n\n".join(f"{name}, paragraph {n}: " + "some words " * 5 for n in range(number))


def parents(corpus, split):
    return {document.parent for document in corpus.split(split)}


def test_the_parts_of_a_document_are_in_the_same_split(build, write):
    raw = write("long.txt", words("long", 200)).parent
    for number in range(40):
        write(f"{number}.txt", words(str(number), number % 3 + 1))
    divided = build(raw, split_characters=100, validation_fraction=0.3)
    assert parents(divided, "train").isdisjoint(parents(divided, "validation"))
    whole = build(raw, output=raw.parent / "whole", validation_fraction=0.3)
    for split in ("train", "validation"):  # dividing documents does not move them
        assert parents(divided, split) == {d.id for d in whole.split(split)} == parents(whole, split)
        assert divided.counts[split]["documents"] == whole.counts[split]["documents"] == len(whole.split(split))
        assert divided.counts[split]["parts"] == len(divided.split(split))
    assert divided.counts["held_out"] == whole.counts["held_out"] == "documents"
    assert divided.counts["kept"]["documents"] == 41
    assert divided.counts["kept"]["parts"] > 200


def test_of_two_books_one_is_held_out(build, write, capsys):
    raw = write("a.txt", words("a", 60)).parent
    write("b.txt", words("b", 60))
    corpus = build(raw, split_characters=200)
    assert {len(parents(corpus, split)) for split in ("train", "validation")} == {1}
    assert parents(corpus, "train") != parents(corpus, "validation")
    assert corpus.counts["held_out"] == "documents"
    message = capsys.readouterr().err
    assert f"2 of 2 documents (in {corpus.counts['kept']['parts']} parts) kept" in message
    assert f"1 of 2 documents (in {corpus.counts['validation']['parts']} parts), 50.0% of the text" in message


def test_one_book_is_divided_between_the_splits_and_the_message_says_so(build, write, capsys):
    corpus = build(write("a.txt", words("a", 200)), split_characters=200)
    assert parents(corpus, "train") == parents(corpus, "validation") == {"a.txt"}
    assert corpus.counts["held_out"] == "parts"
    assert [corpus.counts[name]["documents"] for name in ("kept", "train", "validation")] == [1, 1, 1]
    message = f"held out for validation: {len(corpus.split('validation'))} parts of the only document"
    assert message in capsys.readouterr().err


def test_an_undivided_document_is_for_training(build, write, capsys):
    corpus = build(write("one.txt", "the only text"))
    assert [d.id for d in corpus.split("train")] == ["one.txt"]
    assert pq.read_table(corpus.directory / "documents" / "validation-00000.parquet").column_names == [
        "id", "parent", "text", "source", "licence", "metadata", "scores",
    ]  # fmt: skip
    assert corpus.split("validation") == []
    assert corpus.counts["validation"] == {"documents": 0, "parts": 0, "bytes": 0}
    assert corpus.counts["held_out"] == "documents"
    message = capsys.readouterr().err
    assert "give more text: a document of 13 bytes is too short to hold out some of its parts" in message
    assert "split_characters" not in message


@pytest.mark.parametrize("paragraphs", [100, 5000])
def test_the_advice_to_divide_a_document_holds_out_parts(build, write, capsys, paragraphs):
    raw = write("one.txt", words("one", paragraphs))
    build(raw)
    advised = int(re.search(r"set corpus.split_characters=(\d+) to", capsys.readouterr().err)[1])
    assert advised <= 10_000
    divided = build(raw, output=raw.parent / "divided", split_characters=advised)
    assert divided.counts["kept"]["parts"] >= 20
    assert divided.counts["validation"]["parts"] >= 1
