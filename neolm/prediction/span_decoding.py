"""From the logits of begin and end to answers (Devlin et al. 2019, sections 4.2 and 4.3).

The score of a span is its begin logit plus its end logit, that of no answer the sum at [CLS]. Spans begin in the window
in which their first token has the most context, so that each is scored once. Over several windows, the score of no
answer is the lowest: a context has no answer if none of its windows has one. As in the paper, no answer is given if
this score is above that of the best span by more than a threshold.

Shapes: T tokens of a window, L longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neolm.core.errors import NonFiniteError
from neolm.metrics.answers import NullThreshold, answer_scores, best_null_threshold
from neolm.prediction.question_encoder import CLS, EncodedQuestion
from neolm.tables.questions import Question

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """A part of the context that may be the answer."""

    text: str
    start: int
    """Index of its first character in the context."""
    end: int
    """Index of the character after its last one."""
    score: float
    """Begin logit plus end logit."""
    probability: float
    """Softmax of the scores over all spans that are possible, and no answer."""


@dataclass(frozen=True)
class Answers:
    """The best spans of a question, the best first, and what speaks for no answer."""

    spans: Sequence[Span]
    null_score: float
    """Score of no answer minus that of the best span."""
    null_probability: float

    def best(self, null_threshold: float | None) -> Span | None:
        """The answer; None if there is none, by a threshold on the null score."""
        return None if null_threshold is not None and self.null_score > null_threshold else self.spans[0]


class SpanDecoder:
    """The best spans of one question, from the logits of its windows."""

    def __init__(self, question: EncodedQuestion, max_answer_tokens: int, n_best: int) -> None:
        self.question, self.max_answer_tokens, self.n_best = question, max_answer_tokens, n_best
        self._owners = question.windows.with_most_context()
        self._null = np.inf
        self._largest, self._sum = -np.inf, 0.0  # the largest score, and the sum of exponentials of scores minus it
        self._scores, self._begins, self._ends = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, number: int, begin: ArrayLike, end: ArrayLike) -> None:
        """Add the logits (T,) of a window, with or without padding behind them.

        Raises:
            NonFiniteError: a logit is not finite.
        """
        part, first = self.question.windows.tokens(number), self.question.first
        begins, ends = (np.asarray(logits, np.float64)[: first + len(part) + 1] for logits in (begin, end))
        if not (np.isfinite(begins).all() and np.isfinite(ends).all()):
            raise NonFiniteError("predict: a logit is not finite; the weights are damaged")
        self._null = min(self._null, begins[CLS] + ends[CLS])
        inside, visible = slice(first, first + len(part)), self.question.context.visible[part.start : part.stop]
        begins = np.where(visible & (self._owners[part.start : part.stop] == number), begins[inside], -np.inf)
        ends = np.where(visible, ends[inside], -np.inf)
        limit = min(self.max_answer_tokens, len(part))
        padded = np.append(ends, np.full(limit - 1, -np.inf))
        scores = begins[:, None] + np.lib.stride_tricks.sliding_window_view(padded, limit)  # (T, L)
        self._add_scores(scores)
        rows, lengths = np.nonzero(scores >= _nth_largest(scores, self.n_best))
        found = rows + part.start
        self._keep(scores[rows, lengths], found, found + lengths)

    def result(self) -> Answers:
        """The answers, after the logits of all windows were added."""
        largest = max(self._largest, self._null)
        total = self._sum * np.exp(self._largest - largest) + np.exp(self._null - largest)
        probabilities = np.exp(self._scores - largest) / total
        context = self.question.context
        spans = [
            Span(context.text[start:end], int(start), int(end), float(score), float(probability))
            for start, end, score, probability in zip(
                context.starts[self._begins], context.ends[self._ends], self._scores, probabilities, strict=True
            )
        ]
        return Answers(spans, float(self._null - self._scores[0]), float(np.exp(self._null - largest) / total))

    def _add_scores(self, scores: Floats) -> None:
        """Add spans to the sum of exponentials, which does not overflow and keeps the differences of large scores."""
        largest = max(self._largest, float(scores.max()))
        if largest > -np.inf:
            self._sum = self._sum * np.exp(self._largest - largest) + np.exp(scores - largest).sum()
            self._largest = largest

    def _keep(self, scores: Floats, begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        """Merge spans with those found before, and keep the best: of equal ones the earlier, then the shorter."""
        scores = np.concatenate([self._scores, scores])
        begins, ends = np.concatenate([self._begins, begins]), np.concatenate([self._ends, ends])
        order = np.lexsort((ends, begins, -scores))[: self.n_best]
        self._scores, self._begins, self._ends = scores[order], begins[order], ends[order]


def fit_null_threshold(
    answers: Sequence[Answers], questions: Sequence[Question], exact: bool = False
) -> NullThreshold | None:
    """The threshold of the null score with the best F1 on validation questions; with `exact`, the best exact match.

    None if each of them has an answer, as in SQuAD 1.1: then no answer is never right. Questions that are not labelled
    are left out.

    Raises:
        InputError: no question has an answer.
    """
    pairs = [(found, question) for found, question in zip(answers, questions, strict=True) if question.labelled]
    scores = answer_scores([found.spans[0].text for found, _ in pairs], [question.texts for _, question in pairs])
    if scores.answerable.all():
        return None
    values = scores.exact_match if exact else scores.f1
    return best_null_threshold([found.null_score for found, _ in pairs], values, scores.answerable)


def _nth_largest(scores: Floats, count: int) -> float:
    """The value of the last one of the `count` largest; at least the lowest finite number, which -inf is below."""
    flat = scores.ravel()
    value = np.partition(flat, -count)[-count] if count < len(flat) else -np.inf
    return float(max(value, np.finfo(np.float64).min))
