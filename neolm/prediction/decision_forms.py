"""The two forms in which questions are asked: a list, as in OpenAI's API, or an object from names, as in System One."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from neolm.core.config import Config, validate
from neolm.core.errors import InputError
from neolm.prediction.decision_question import Option, Question, content_text, label_option

MAX_OPTIONS, MAX_QUESTIONS = 255, 400
"""The limits of OpenAI's API."""
Content = str | dict[str, Any] | list[Any] | None
"""A text, or JSON, which is read as text."""


class ChoiceOption(Config):
    """An option of a choice."""

    value: str | bool
    """What the answer says if it is chosen."""
    description: str | None = None
    """What it means."""


class ScoreLevel(Config):
    """A level of a score."""

    label: str
    """What the level is called."""
    description: str | None = None
    """What it means."""


class ListedQuestion(Config):
    """A question of a list: a statement that may be true, options of which one fits, or levels of which one does."""

    type: Literal["predicate", "choice", "score"]
    """predicate: is it true; choice: which option; score: which level."""
    instructions: str | list[dict[str, Any]]
    """A text, or parts of the types input_text and input_json."""
    name: str | None = None
    """Its name in the answer."""
    choices: Annotated[list[ChoiceOption], Field(max_length=MAX_OPTIONS)] | None = None
    """choice: 2 to 255 options, in any order."""
    levels: Annotated[list[ScoreLevel], Field(max_length=MAX_OPTIONS)] | None = None
    """score: 2 to 255 levels, the lowest first."""

    def question(self, name: str) -> Question:
        """What is asked."""
        text = self.instructions if isinstance(self.instructions, str) else parts_text(self.instructions)
        _only(self.type, {"choice": ("choices", self.choices), "score": ("levels", self.levels)})
        if self.type == "predicate":
            return Question("noul", text, (Option(True, ""), Option(False, "")), self.name)
        pairs = [(one.value, one.description) for one in self.choices or ()]
        pairs += [(one.label, one.description) for one in self.levels or ()]
        return Question(self.type, text, tuple(label_option(*pair) for pair in pairs), self.name)


class NamedQuestion(Config):
    """A question of System One: whether something is true (noul), options of which one fits, or levels."""

    type: Literal["noul", "choice", "score"]
    """noul: is it true; choice: which option; score: which level."""
    instructions: Content = None
    """What is asked; of noul, what is to be true."""
    criteria: dict[str, Content] | list[Content] | None = None
    """choice: 2 to 255 options in any order with their descriptions, or null; score: 2 to 255 levels, the lowest first;
    noul: what `true` and `false` mean."""

    def question(self, name: str) -> Question:
        """What is asked."""
        given = self.criteria or ([] if self.type == "score" else {})
        if isinstance(given, list) != (self.type == "score") or len(given) > MAX_OPTIONS:
            form = "a list of levels" if self.type == "score" else "an object from options to descriptions"
            raise InputError(f"criteria: {form} is needed, of at most {MAX_OPTIONS}")
        if isinstance(given, list):
            options = [Option(content_text(level), content_text(level), level) for level in given]
        elif self.type == "choice":
            options = [label_option(*pair) for pair in given.items()]
        else:
            if wrong := sorted({*given} - {"true", "false"}):
                raise InputError(f"criteria: noul has only true and false, not {wrong[0]!r}")
            options = [Option(value == "true", content_text(given.get(value))) for value in ("true", "false")]
        return Question(self.type, content_text(self.instructions), tuple(options), name)


class _Listed(Config):
    questions: list[ListedQuestion]


class _Named(Config):
    questions: dict[str, NamedQuestion]


def parse_questions(given: Any) -> list[Question]:
    """The questions of a list, or of an object from names.

    Raises:
        InputError: it has another form, or a question cannot be asked; the message names it.
    """
    if isinstance(given, list):
        return asked(enumerate(validate(_Listed, {"questions": given}, {}).questions))
    if isinstance(given, dict):
        return asked(validate(_Named, {"questions": given}, {}).questions.items())
    raise InputError("questions: a list, or an object from names to questions, is needed")


def asked(given: Iterable[tuple[Any, ListedQuestion | NamedQuestion]]) -> list[Question]:
    """The questions of forms with their names or numbers. Raises `InputError` with the place of one that is wrong."""
    questions = []
    for name, one in given:
        try:
            questions.append(one.question(str(name)))
        except InputError as error:
            raise InputError(f"questions.{name}: {error}") from None
    if not 0 < len(questions) <= MAX_QUESTIONS:
        raise InputError(f"questions: there are {len(questions)}, and 1 to {MAX_QUESTIONS} can be asked")
    return questions


def parts_text(parts: Sequence[Mapping[str, Any]]) -> str:
    """The text of the parts of a message or of instructions. Raises `InputError` for what is neither text nor JSON."""
    texts = []
    for part in parts:
        text = part.get(
            {"input_text": "text", "output_text": "text", "refusal": "refusal"}.get(str(part.get("type")), "")
        )
        data = part.get("data") if part.get("type") == "input_json" else None
        if not isinstance(text, str) and not isinstance(data, dict | list):
            raise InputError(
                "a part must be an input_text with a text or an input_json with data: no pictures, no sound"
            )
        texts.append(text if isinstance(text, str) else content_text(data))
    return "\n".join(texts)


def _only(kind: str, fields: Mapping[str, tuple[str, Any]]) -> None:
    """Raise an `InputError` if there are options of another kind of question."""
    for owner, (name, value) in fields.items():
        if value is not None and owner != kind:
            raise InputError(f"{name} are of a {owner}, and the type is {kind}")
