"""Bodies of requests and responses of `/v1/decisions`, as in OpenAI's API, and of `/v1/systemone`, as System One's."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, model_validator

from neolm.prediction.decision_forms import MAX_QUESTIONS, ListedQuestion, NamedQuestion
from neolm.serving.server.request_schema import IGNORED, RequestShape, Shape, Short, Text


class _AnyText(RequestShape):
    model: Annotated[Text, Field(max_length=512)]
    """Name of the model, one of `/v1/models`: an encoder, a decoder, or a classifier of entailment."""

    @model_validator(mode="before")
    @classmethod
    def _is_unicode(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            raise ValueError("the body is not valid Unicode: it contains half of a surrogate pair") from None
        except (ValueError, RecursionError):
            raise ValueError("the body has a number that is not finite, or is nested too deeply") from None
        return data


class DecisionRequest(_AnyText):
    """Answer typed questions about an input by probabilities."""

    input: str | list[dict[str, Any]]
    """A text, or a list of messages, function calls and their outputs, with texts and JSON but no pictures."""
    questions: Annotated[list[ListedQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]
    """What is asked."""
    prompt_cache_key: Short | None = IGNORED
    prompt_cache_options: dict[str, Any] | None = IGNORED
    safety_identifier: Short | None = IGNORED


class SystemOneRequest(_AnyText):
    """Answer typed questions about a state by probabilities."""

    state: str | dict[str, Any] | list[Any]
    """A text, or JSON, which is read as text."""
    questions: Annotated[dict[str, NamedQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]
    """What is asked, by name."""


class InputTokens(Shape):
    """Cached tokens are not counted apart: both are 0."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokens(Shape):
    """No text is generated."""

    reasoning_tokens: int = 0


class DecisionUsage(Shape):
    """Numbers of tokens that were read for all options together."""

    input_tokens: int
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int = 0
    output_tokens_details: OutputTokens = OutputTokens()
    total_tokens: int


class Decisions(Shape):
    """Answers in the order of the questions."""

    answers: list[dict[str, Any]]
    """Each with `type` and `name`. predicate: `probability`; choice: `choice`, `confidence`, and `probabilities` with
    `value` and `probability`; score: `score` (the mean level, from 0), `confidence`, and `probabilities` with `label`,
    `value` and `probability`."""
    model: str
    usage: DecisionUsage


class SystemOneUsage(Shape):
    """Numbers of tokens that were read for all options together."""

    input_tokens: int
    output_tokens: int = 0


class NamedDecisions(Shape):
    """Answers by the names of the questions."""

    model: str
    answers: dict[str, dict[str, Any]]
    """Each with `type`. noul: `noul`; choice: `choice`, `confidence`, `probabilities`; score: `score`, `legend`,
    `confidence`, `probabilities`."""
    usage: SystemOneUsage
