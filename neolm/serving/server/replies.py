"""What clients get, in the shapes of OpenAI's API and of the page's."""

from __future__ import annotations

from typing import Any, Literal

from neolm.serving.server.schema import Shape


class Usage(Shape):
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    left_out_tokens: int | None = None
    """Of the prompts, where `truncate_prompt_tokens` was given."""


class CompletionLogprobs(Shape):
    """Each list has an entry a token; the first of a prompt has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(Shape):
    """A continuation, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(Shape):
    """Continuations, or a chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Alternative(Shape):
    """A token that could have stood in a place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Alternative):
    """A token of an answer, and the likeliest in its place."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Shape):
    """An answer's tokens."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(Shape):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Shape):
    """An answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Shape):
    """Answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelEntry(Shape):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "neolm"
    context: int
    """Tokens of prompt and answer together."""
    family: str
    parameters: int
    loaded: bool
    """Whether it is in memory; it comes there by being asked."""
    chat_template: Literal["plain", "own"]
    """Where a conversation's form comes from: NeoLM's plain one, or the model directory."""


class ModelList(Shape):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class ErrorBody(Shape):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(Shape):
    """An error."""

    error: ErrorBody


class Limits(Shape):
    """What one request may ask for."""

    max_tokens: int
    choices: int


class Info(Shape):
    """What the page needs to know of the server."""

    version: str
    feedback: bool
    key_required: bool
    limits: Limits


class Link(Shape):
    """An artefact that a model was made from."""

    stage: str
    directory: str
    created: str
    details: dict[str, Any]


class ModelCard(Shape):
    """A model, as people want to know it."""

    id: str
    digest: str
    family: str
    parameters: int
    context: int
    dtype: str
    quantize: Literal["int8", "int4"] | None
    config: dict[str, Any]
    card: str | None
    """Markdown."""
    lineage: list[Link]
