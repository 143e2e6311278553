"""Targets for training a model with the head "span": the positions of begin and end in each window.

A window with the whole answer has the positions of its first and last token. Any other has [CLS] twice, also if it
holds a part of the answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from neolm.core.errors import InputError, SettingError
from neolm.prediction.question_encoder import CLS, EncodedQuestion, QuestionEncoder
from neolm.tables.questions import Places, Question, counted, reasons


@dataclass(frozen=True)
class SpanWindow:
    """A window with its targets."""

    question: int
    """Index of the question."""
    input_ids: list[int]
    token_type_ids: list[int]
    begin: int
    """Position of the answer's first token, or 0, [CLS]."""
    end: int
    """Position of its last token, or 0."""


@dataclass
class SpanWindows:
    """The windows of the questions of a training part."""

    windows: list[SpanWindow] = field(default_factory=list)
    left_out: dict[str, Places] = field(default_factory=dict)
    """Questions that cannot be trained on, by reason; the first by its id."""
    dropped_windows: int = 0
    """Windows without an answer that are left out because of `null_windows`."""
    inexact: int = 0
    """Answers that begin or end inside a token, so that their targets are longer."""

    def lines(self) -> list[str]:
        """What was made and what is wrong with it, for a person."""
        with_answer = sum(window.begin > CLS for window in self.windows)
        line = f"{with_answer:,} windows with an answer and {len(self.windows) - with_answer:,} without"
        line += f" ({self.dropped_windows:,} more are left out)" if self.dropped_windows else ""
        lines = [line, *reasons(self.left_out, "question")]
        if self.inexact:
            lines.append(f"answers that begin or end inside a token, so that more is trained on: {self.inexact:,}")
        return lines


def span_windows(
    encoder: QuestionEncoder, questions: Sequence[Question], null_windows: int | None = None, seed: int = 0
) -> SpanWindows:
    """The windows of questions with their targets.

    Args:
        encoder: Reads the questions.
        questions: Each must be labelled. Of several answers, the one that was given most often is the target, of equal
            ones the first.
        null_windows: Most windows without the answer that are kept of a question, drawn by `seed`; of a question
            without an answer at least one. None: all.
        seed: Number from which the draw follows.

    Raises:
        InputError: a question is not labelled.
    """
    if null_windows is not None and null_windows < 0:
        raise SettingError("null_windows", f"{null_windows} is less than 0")
    found = SpanWindows()
    for number, question in enumerate(questions):
        if not question.labelled:
            raise InputError(f"question {question.id!r} is not labelled, so it cannot be trained on")
        try:
            encoded = encoder.encode(question.question, question.context)
            targets, exact = _targets(encoded, question)
        except InputError as error:
            counted(found.left_out, str(error), f"question {question.id}")
            continue
        kept = _kept(targets, null_windows, np.random.default_rng([seed, number]))
        for window in kept:
            found.windows.append(SpanWindow(number, *encoded.inputs(window), *targets[window]))
        found.dropped_windows += len(targets) - len(kept)
        found.inexact += not exact
    return found


def _targets(encoded: EncodedQuestion, question: Question) -> tuple[list[tuple[int, int]], bool]:
    """Positions of begin and end in each window, and whether the answer's ends are those of tokens."""
    nowhere = [(CLS, CLS)] * len(encoded.windows)
    if not question.answers:
        return nowhere, True
    answer = Counter(question.answers).most_common(1)[0][0]
    tokens = encoded.context.covering(answer.start, answer.end)
    if tokens is None:
        raise InputError("its answer has no tokens")
    begin, end = tokens
    targets = [
        (begin - part.start + encoded.first, end - part.start + encoded.first)
        if begin in part and end in part
        else (CLS, CLS)
        for part in map(encoded.windows.tokens, range(len(encoded.windows)))
    ]
    if targets == nowhere:
        raise InputError("its answer is in no window as a whole; raise window_tokens, or lower stride")
    exact = encoded.context.starts[begin] >= answer.start and encoded.context.ends[end] <= answer.end
    return targets, bool(exact)


def _kept(targets: Sequence[tuple[int, int]], null_windows: int | None, random: np.random.Generator) -> list[int]:
    """Numbers of the windows that are kept."""
    empty = [number for number, target in enumerate(targets) if target == (CLS, CLS)]
    limit = len(empty) if null_windows is None else max(null_windows, len(empty) == len(targets))
    dropped = set() if limit >= len(empty) else set(random.permutation(empty)[limit:].tolist())
    return [number for number in range(len(targets)) if number not in dropped]
