"""Train and validation: by the id alone, and neither side empty where there are two documents."""

from __future__ import annotations

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from neolm.corpus.split import validation_score, validation_threshold

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


def test_a_document_keeps_its_side_as_the_corpus_grows(build, write, tmp_path):
    records = [{"text": f"text number {n}", "id": n} for n in range(300)]
    small = build(write("small.jsonl", records[:150]), output=tmp_path / "small", validation_fraction=0.3)
    large = build(write("large.jsonl", records), output=tmp_path / "large", validation_fraction=0.3)
    validation = {d.id for d in small.split("validation")}
    assert validation == {d.id for d in large.split("validation") if int(d.id) < 150}
    assert 30 < len(validation) < 60
    assert validation.isdisjoint({d.id for d in small.split("train")})


def test_two_documents_are_one_on_each_side(build, write):
    path = write("two.jsonl", [{"text": "one text"}, {"text": "other text"}])
    for fraction in (0.001, 0.999):
        corpus = build(path, validation_fraction=fraction)
        assert [len(corpus.split("train")), len(corpus.split("validation"))] == [1, 1]


def test_one_document_is_for_training(build, write, capsys):
    corpus = build(write("one.txt", "the only text"))
    assert [d.id for d in corpus.split("train")] == ["one.txt"]
    assert pq.read_table(corpus.directory / "documents" / "validation-00000.parquet").column_names == [
        "id", "text", "source", "licence", "metadata",
    ]  # fmt: skip
    assert corpus.split("validation") == []
    assert "corpus.split_characters" in capsys.readouterr().err
