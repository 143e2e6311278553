"""Questions about a context, with their answers: a question may have several answers, none, or no label.

An answer is a part of the context. One that is not at its stated place is looked for, the nearest place first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from neolm.core.errors import InputError
from neolm.tables.split import drawn_numbers

SHOWN = 9  # reasons that are named


@dataclass(frozen=True)
class Answer:
    """A part of the context, without white space around it."""

    text: str
    start: int
    """Index of its first character in the context."""

    @property
    def end(self) -> int:
        """Index of the character after its last one."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Question:
    """A question, what it is asked about, and its answers."""

    id: str
    question: str
    context: str
    answers: Sequence[Answer] = ()
    labelled: bool = True
    """Whether the answers are known; if they are and there are none, the context has no answer."""
    article: str = ""
    """What the context is a part of, if it is known."""

    @property
    def texts(self) -> list[str]:
        """The texts of the answers."""
        return [answer.text for answer in self.answers]


@dataclass(frozen=True)
class Places:
    """How often something was found, and where first."""

    count: int
    first: str


def counted(counts: dict[str, Places], reason: str, place: str) -> None:
    """Count one more for a reason, found at a place."""
    before = counts.get(reason, Places(0, place))
    counts[reason] = replace(before, count=before.count + 1)


def reasons(left_out: Mapping[str, Places], noun: str) -> list[str]:
    """A line for each of the most frequent reasons: `3 texts left out: the text is empty (first: line 12)`."""
    ordered = sorted(left_out.items(), key=lambda item: -item[1].count)
    lines = [
        f"{_many(places.count, noun)} left out: {reason} (first: {places.first})" for reason, places in ordered[:SHOWN]
    ]
    if others := sum(places.count for _, places in ordered[SHOWN:]):
        lines.append(f"{_many(others, noun)} left out for {_many(len(ordered) - SHOWN, 'other reason')}")
    return lines


@dataclass(frozen=True)
class Questions:
    """The questions of a file."""

    path: Path
    questions: Sequence[Question]
    left_out: Mapping[str, Places] = field(default_factory=dict)
    """Questions that cannot be used, by reason."""
    lost_answers: Places | None = None
    """Answers that are nowhere in the context, of questions that have others."""
    moved_answers: Places | None = None
    """Answers that are not at the stated place, and were found at another."""
    placed_answers: Places | None = None
    """Answers without a stated place that are in the context more than once; the first place was taken."""

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def labelled(self) -> list[Question]:
        """The questions that can be scored."""
        return [question for question in self.questions if question.labelled]

    def lines(self) -> list[str]:
        """What was read and what is wrong with it, for a person."""
        labelled = self.labelled
        answered = sum(bool(question.answers) for question in labelled)
        sources = _many(len({question.context for question in self.questions}), "context")
        if articles := {question.article for question in self.questions} - {""}:
            sources += f" and {_many(len(articles), 'article')}"
        unlabelled = len(self) - len(labelled)
        found = [f"{answered:,} have an answer", f"{len(labelled) - answered:,} have none"] if labelled else []
        found += [f"{unlabelled:,} are not labelled, so they are not scored"] if unlabelled else []
        lines = [f"{self.path}: {_many(len(self), 'question')} about {sources}: {', '.join(found)}"]
        notes = [
            f"{_many(places.count, 'answer')} {text} (first: {places.first})"
            for places, text in (
                (self.lost_answers, "left out: not in the context"),
                (self.moved_answers, "not at the stated place, but found at another"),
                (self.placed_answers, "without a stated place: the first of several places was taken"),
            )
            if places is not None
        ]
        return [*lines, *reasons(self.left_out, "question"), *notes]


class QuestionList:
    """Questions as they are read from a file; those that cannot be used are counted by reason."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.left_out: dict[str, Places] = {}
        self._answers: dict[str, Places] = {}
        self._ids: set[str] = set()

    def add(self, question: Question, stated: Sequence[tuple[str, int | None]] | None, place: str) -> None:
        """Add a question if it can be used.

        Args:
            question: The question, yet without answers.
            stated: Text and start of each answer, the start None if it is not known; None: the question is unlabelled.
                Answers without a text say that there is none.
            place: Where the question is in the file, for messages.
        """
        try:
            self._check(question)
            answers = self._located(question.context, stated or [], place)
        except InputError as error:
            self.leave_out(str(error), place)
            return
        self._ids.add(question.id)
        self.questions.append(replace(question, answers=answers, labelled=stated is not None))

    def leave_out(self, reason: str, place: str) -> None:
        """Count a question that cannot be used."""
        counted(self.left_out, reason, place)

    def of_file(self, path: Path) -> Questions:
        """The questions that were read. Raises `InputError` if there are none."""
        counts = self._answers
        found = Questions(
            path, self.questions, self.left_out, counts.get("lost"), counts.get("moved"), counts.get("placed")
        )
        if not self.questions:
            why = "; ".join(found.lines()[1:]) or "it has none"
            raise InputError(f"{path}: there is no question that can be used; {why}")
        return found

    def _check(self, question: Question) -> None:
        for name, text in (("question", question.question), ("context", question.context)):
            if not text.strip():
                raise InputError(f"the {name} is empty")
        if question.id in self._ids:
            raise InputError("its id is that of an earlier question")

    def _located(self, context: str, stated: Sequence[tuple[str, int | None]], place: str) -> list[Answer]:
        answers, lost = [], 0
        for given, start in stated:
            text = given.strip()
            if not text:
                continue
            wanted = None if start is None else start + len(given) - len(given.lstrip())
            found = _nearest(context, text, wanted)
            if found is None:
                lost += 1
                continue
            answers.append(Answer(text, found))
            if wanted is not None and found != wanted:
                counted(self._answers, "moved", place)
            elif wanted is None and context.find(text, found + 1) >= 0:
                counted(self._answers, "placed", place)
        if lost and not answers:
            raise InputError("its answer is not in the context")
        for _ in range(lost):
            counted(self._answers, "lost", place)
        return answers


def split_by_article(questions: Questions, share: float, seed: int) -> tuple[Questions, Questions]:
    """The training and the validation part, each in the order of the file; no article and no context is divided.

    Raises:
        InputError: there is only one article, so nothing can be put aside.
    """
    contexts = [question.context for question in questions.questions]
    articles = [question.article or f"question {n}" for n, question in enumerate(questions.questions)]
    drawn = drawn_numbers(contexts, articles, [""] * len(contexts), share, seed)
    if not drawn:
        raise InputError(
            f"{questions.path}: no validation part can be drawn, because all questions are about one article; give a "
            "file of validation questions"
        )
    parts = ([q for n, q in enumerate(questions.questions) if (n in drawn) == aside] for aside in (False, True))
    training, validation = (Questions(questions.path, part) for part in parts)
    return training, validation


def _nearest(context: str, text: str, wanted: int | None) -> int | None:
    """Where `text` starts in the context: as near to `wanted` as possible, or first; None if it is not there."""
    if wanted is None:
        first = context.find(text)
        return first if first >= 0 else None
    after = context.find(text, max(wanted, 0))
    before = context.rfind(text, 0, max(wanted, 0) + len(text))
    found = [start for start in (after, before) if start >= 0]
    return min(found, key=lambda start: abs(start - wanted)) if found else None


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
