"""Exact match and F1 of extractive answers as SQuAD defines them (Rajpurkar et al. 2016, 2018).

The rules are those of the official script of SQuAD 2.0, where the empty text is the answer to a question without one.
The script of 1.1 differs only for answers of nothing but articles and punctuation: it gives them an F1 of 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from neolm.core.errors import InputError
from neolm.metrics.inputs import Bools, Floats, booleans, examples

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """The text in lower case, without ASCII punctuation and the words a, an, the, with single spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prediction: str, answer: str) -> float:
    """1 if the normalised texts are equal, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(answer))


def token_f1(prediction: str, answer: str) -> float:
    """F1 of the words that prediction and answer share, each as often as in both; 1 if both are empty."""
    guess, truth = normalize_answer(prediction).split(), normalize_answer(answer).split()
    if not guess or not truth:
        return float(guess == truth)
    return 2 * (Counter(guess) & Counter(truth)).total() / (len(guess) + len(truth))


@dataclass(frozen=True)
class AnswerScores:
    """Scores of N questions; the means are the scores of the set, over `answerable` those of its parts."""

    exact_match: Floats
    f1: Floats
    answerable: Bools
    """(N,) whether the question has an answer."""


def answer_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> AnswerScores:
    """Exact match and F1 of each question: the best over its gold answers.

    Args:
        predictions: A text for each question; "" says that there is no answer.
        answers: The gold answers of each question; none for a question that has no answer.

    Raises:
        InputError: there are no questions, or none has an answer. Then the set is not labelled, as are the test files
            of competitions: predicting "" everywhere would score 100%.
    """
    if len(predictions) != len(answers):
        raise InputError(f"answers: there are {len(predictions)} predictions for {len(answers)} questions")
    if not answers:
        raise InputError("answers: there are no questions")
    # As in the official script, an answer that is empty after normalisation is no answer.
    golds = [[answer for answer in texts if normalize_answer(answer)] for texts in answers]
    if not any(golds):
        raise InputError(
            f"answers: none of the {len(golds)} questions has an answer, so the set is not labelled and cannot be "
            "scored; give a file with answers"
        )
    exact, f1 = (
        np.array(
            [max(score(text, gold) for gold in texts or [""]) for text, texts in zip(predictions, golds, strict=True)]
        )
        for score in (exact_match, token_f1)
    )
    return AnswerScores(exact, f1, np.array([bool(texts) for texts in golds]))


@dataclass(frozen=True)
class NullThreshold:
    """Questions whose null score is above the threshold are answered by ""."""

    value: float
    score: float
    """Mean score on the validation set with this threshold."""


def best_null_threshold(null_scores: ArrayLike, scores: ArrayLike, answerable: ArrayLike) -> NullThreshold:
    """The threshold with the highest mean score on a validation set; of equal ones the lowest.

    The official script also sweeps over the values, but may end between equal ones, which no threshold separates.

    Args:
        null_scores: (N,) score of "no answer" minus that of the best answer.
        scores: (N,) exact match or F1 of the best answer of each question.
        answerable: (N,) whether the question has an answer.
    """
    nulls, answered, _ = examples("null threshold", null_scores=null_scores, scores=scores, answerable=answerable)
    (has,) = booleans("null threshold", answerable=answerable)
    order = np.argsort(nulls, kind="stable")
    nulls = nulls[order].astype(np.float64)
    # Answering one more question, in order of the null score, gains its score and loses what "" would score.
    gain = (answered - ~has)[order]
    totals = np.append(0, np.cumsum(gain)) + (~has).sum()
    last = np.append(np.flatnonzero(np.diff(nulls)), len(nulls) - 1)  # of each run of equal values
    values = np.append(nulls[0] - 1, nulls[last])  # the first answers nothing
    reached = totals[np.append(0, last + 1)] / len(nulls)
    best = int(np.argmax(reached))
    return NullThreshold(float(values[best]), float(reached[best]))
