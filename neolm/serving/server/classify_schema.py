"""Bodies of requests and responses of `/v1/classify`, in the manner of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from neolm.serving.server.embedding_schema import MAX_INPUTS
from neolm.serving.server.request_schema import IGNORED, NUMBER, Flag, RequestShape, Shape, Short, Text

DEFAULT_TOP = 100


class InputText(RequestShape):
    """A text, or two that belong together."""

    text: Text
    """The text, or the first of a pair."""
    second: Text | None = None
    """For models that read pairs, and only for those."""


def _inputs(value: Any) -> list[Any]:
    """A list of objects, of a text, an object, or a list of either."""
    inputs = value if isinstance(value, list) else [value]
    if not inputs:
        raise ValueError("is an empty list")
    if len(inputs) > MAX_INPUTS:
        raise ValueError(f"has {len(inputs)} inputs, the limit is {MAX_INPUTS}")
    if wrong := [index for index, one in enumerate(inputs) if not isinstance(one, str | dict)]:
        place = f"; the one with index {wrong[0]} is neither" if isinstance(value, list) else ""
        raise ValueError(f'must be a text, {{"text": ..., "second": ...}}, or a list of either{place}')
    return [{"text": one} if isinstance(one, str) else one for one in inputs]


class ClassifyRequest(RequestShape):
    """Give labels to texts."""

    model: Annotated[Text, Field(max_length=512)]
    """Name of the model, one of `/v1/models` of the kind classify."""
    input: Annotated[
        list[InputText],
        BeforeValidator(
            _inputs,
            json_schema_input_type=Text
            | InputText
            | Annotated[list[Text | InputText], Field(min_length=1, max_length=MAX_INPUTS)],
        ),
    ]
    """A text, a list of texts, or a list of pairs of texts for models that read pairs."""
    top_k: Annotated[int, Field(ge=1, lt=2**31), NUMBER] | None = None
    """Give the probabilities of so many labels only, the likeliest first. Default: 100."""
    explain: Flag | None = None
    """Of one text, up to 60 words: leave out each word in turn, and say how much that changes the result."""
    user: Short | None = IGNORED


class WordEffect(Shape):
    """A word, and what leaving it out changes."""

    text: str
    start: int
    """Index of the word's first character in its text."""
    end: int
    """Index of the character after the word."""
    effect: float | None
    """Probability of the likeliest label, or the score, minus that without the word; null if no other word is left."""
    field: Literal["text", "second"]
    """The text of a pair that has the word."""


class Classification(Shape):
    """What the model says about one text. Fields that its task does not have are left out."""

    index: int
    """Number of the text in `input`."""
    label: str | list[str] | None = None
    """The label; null if its probability is too low for an answer; a list if a text can have several."""
    probability: float | list[float] | None = None
    """Probability of the label, or of the likeliest one if `label` is null; a list if a text can have several."""
    probabilities: dict[str, float] | None = None
    """Probabilities of the `top_k` likeliest labels, the likeliest first."""
    score: float | None = None
    """The number, of a model that gives one instead of labels."""
    windows: int | None = None
    """Number of windows in which a long text was read; left out if it was read whole."""
    window: int | None = None
    """Number, from 1, of the window that speaks most for the label."""
    left_out_tokens: int | None = None
    """Number of tokens that were not read, because the text is too long; left out if all were read."""
    words: list[WordEffect] | None = None
    """The words of the text, if `explain` is true."""


class ClassifyUsage(Shape):
    """Numbers of tokens that were read, special ones included; what two windows share is read twice."""

    prompt_tokens: int
    total_tokens: int


class ClassificationList(Shape):
    """Classifications in the order of the texts."""

    object: Literal["list"] = "list"
    model: str
    data: list[Classification]
    usage: ClassifyUsage
