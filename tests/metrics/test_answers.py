"""Extractive answers: the definitions of SQuAD, by hand and against the official script's rules written out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from neolm.core.errors import InputError
from neolm.metrics.answers import answer_scores, best_null_threshold, exact_match, normalize_answer, token_f1


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Cat's\tmat.", "cats mat"),
        ("an A-Team", "ateam"),  # punctuation goes first, so that A-Team is one word
        ("a.m.", "am"),
        ("theatre", "theatre"),
        ("“the” end", "“ ” end"),  # only ASCII punctuation goes; the article goes between quotes
        ("The.", ""),
        ("1,000", "1000"),
    ],
)
def test_normalisation(text: str, normalised: str) -> None:
    assert normalize_answer(text) == normalised


def test_f1_counts_shared_words_as_often_as_in_both() -> None:
    assert token_f1("the black cat", "a cat black as night") == pytest.approx(2 * 2 / (2 + 4))
    assert token_f1("cat cat cat", "cat cat dog") == pytest.approx(2 / 3)
    assert token_f1("dog", "cat") == 0
    assert token_f1("", "") == token_f1("the", "") == 1
    assert token_f1("cat", "") == token_f1("", "cat") == 0
    assert exact_match("The Cat!", "cat") == 1
    assert exact_match("cats", "cat") == 0


@given(st.text("ab. the", max_size=20), st.text("ab. the", max_size=20))
def test_f1_is_symmetric_and_contains_exact_match(first: str, second: str) -> None:
    assert token_f1(first, second) == token_f1(second, first)
    assert exact_match(first, second) <= token_f1(first, second) <= 1
    assert token_f1(first, f"The {first}!") == 1


def test_the_best_gold_answer_counts_and_no_answer_is_the_empty_text() -> None:
    answers = [["Paris", "the city of Paris"], [], [], ["4"], ["the"]]  # "the" is empty, so no answer
    found = answer_scores(["city of Paris", "", "Rome", "", "."], answers)
    assert found.exact_match.tolist() == [1, 1, 0, 0, 1]
    assert found.f1.tolist() == [1, 1, 0, 0, 1]
    assert found.answerable.tolist() == [True, False, False, True, False]
    assert found.f1[found.answerable].mean() == 0.5


def test_a_set_without_answers_is_refused() -> None:
    with pytest.raises(InputError, match=r"none of the 3 questions has an answer, so the set is not labelled"):
        answer_scores(["", "", ""], [[], [], []])
    with pytest.raises(InputError, match="there are no questions"):
        answer_scores([], [])
    with pytest.raises(InputError, match="2 predictions for 1 questions"):
        answer_scores(["a", "b"], [["a"]])


def squad_answers(path: Path) -> list[list[str]]:
    text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), encoding="utf-8")
    paragraphs = [paragraph for article in json.load(text)["data"] for paragraph in article["paragraphs"]]
    return [[answer["text"] for answer in qa["answers"]] for paragraph in paragraphs for qa in paragraph["qas"]]


def test_the_published_sets(shared_data: Path) -> None:
    labelled = squad_answers(shared_data / "squad" / "dev-v2.0.json.zst")
    assert answer_scores([""] * len(labelled), labelled).f1.mean() == pytest.approx(3168 / 6078)
    assert answer_scores([texts[0] if texts else "" for texts in labelled], labelled).exact_match.mean() == 1
    unlabelled = squad_answers(shared_data / "squad" / "test-v2.0.json.zst")
    with pytest.raises(InputError, match="none of the 5915 questions has an answer"):
        answer_scores([""] * len(unlabelled), unlabelled)


ROWS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 1.5]), st.sampled_from([0.0, 0.5, 1.0]), st.booleans()),
    min_size=1,
    max_size=15,
)


@given(ROWS)
def test_the_null_threshold_is_the_best_of_all(rows: list[tuple[float, float, bool]]) -> None:
    nulls, scores, answerable = (np.array(column) for column in zip(*rows, strict=True))
    scores = np.where(answerable, scores, 0.0)  # an answer to a question without one is wrong
    reached = {
        threshold: float(np.where(nulls > threshold, ~answerable, scores).mean())
        for threshold in [-9.0, *nulls.tolist(), 9.0]
    }
    found = best_null_threshold(nulls, scores, answerable)
    assert found.score == pytest.approx(max(reached.values()))
    assert float(np.where(nulls > found.value, ~answerable, scores).mean()) == pytest.approx(found.score)
