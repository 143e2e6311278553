"""Response bodies of the API. Fields that OpenAI's API does not have are marked as additions."""

from __future__ import annotations

from typing import Any, Literal

from neolm.models.label_config import Problem
from neolm.serving.server.delta import FinishReason
from neolm.serving.server.request_schema import Shape


class Usage(Shape):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    left_out_tokens: int | None = None
    """Tokens that `truncate_prompt_tokens` left out of the prompts. (An addition.)"""


class CompletionLogprobs(Shape):
    """Log-probabilities; each list has one entry for each token."""

    tokens: list[str]
    """The tokens as text; bytes that are not UTF-8 are written as `bytes:\\x..`."""
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    """The most likely tokens at each place, and the token itself, with their log-probabilities."""
    text_offset: list[int]
    """Place of each token in prompt and answer together, in characters."""


class ModerationNote(Shape):
    """What the moderation policy of the server decided about an answer."""

    action: Literal["flag", "block"]
    categories: dict[str, float]
    """The categories that decided, with their scores."""
    sent_characters: int
    """Characters of the answer that were sent before it was blocked, or all of them."""
    message: str


class CompletionChoice(Shape):
    """A continuation, or a part of it in a stream."""

    index: int
    """Number of the continuation: prompt by prompt, `n` for each."""
    text: str
    """The continuation; with `echo` the prompt before it."""
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    """stop: an end-of-text token or a stop string; length: `max_tokens` or the end of the context; content_filter: the
    moderation policy has stopped the answer."""
    moderation: ModerationNote | None = None
    """Left out unless the answer was flagged or blocked. (An addition.)"""


class Completion(Shape):
    """A text completion, or a chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    """Numbers of tokens; in a stream only in the last chunk, if it was requested, and null in the others."""


class Alternative(Shape):
    """A token with its log-probability."""

    token: str
    """The token as text; bytes that are not UTF-8 are written as `bytes:\\x..`."""
    logprob: float
    bytes: list[int]


class TokenLogprob(Alternative):
    """A token of an answer, and the most likely tokens in its place."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Shape):
    """Log-probabilities of an answer."""

    content: list[TokenLogprob]
    refusal: None = None


class AnswerMessage(Shape):
    """The message that the model generated."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Shape):
    """An answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    """As in completions."""
    moderation: ModerationNote | None = None
    """As in completions."""


class ChatCompletion(Shape):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelEntry(Shape):
    """A model of the server. All but the first four fields are additions."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Seconds since 1970 at which the server registered it."""
    owned_by: str = "neolm"
    kind: Literal["generate", "embed", "classify"]
    """generate: it writes text, for completions and chat; embed: it turns texts into vectors; classify: into labels."""
    context: int
    """Largest number of tokens of prompt and answer together, of a text to embed, or of a window of a classifier."""
    family: str
    parameters: int
    loaded: bool
    """Whether it is in memory; the first request loads it."""
    chat_template: Literal["plain", "own"] | None = None
    """own: the chat template of the model directory; plain: NeoLM's default; null: it writes no text."""
    dimensions: int | None = None
    """Numbers in a vector of an embedding model."""
    labels: list[str] | None = None
    """The labels of a classifier; null if it gives a number."""
    pair: bool | None = None
    """Whether a classifier reads two texts together."""
    problem: Problem | None = None
    """Whether a classifier gives one label, several, or a number."""


class ModelList(Shape):
    """The models of the server."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class ErrorBody(Shape):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None
    """Identifier of the error, such as context_length_exceeded."""


class ErrorReply(Shape):
    """An error response."""

    error: ErrorBody


class Limits(Shape):
    """Limits of one request."""

    max_tokens: int
    choices: int


class Info(Shape):
    """What the web page needs to know about the server."""

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
    """All that is known about a model."""

    id: str
    kind: Literal["generate", "embed", "classify"]
    """generate: it writes text; embed: it turns texts into vectors; classify: it gives them labels."""
    digest: str
    family: str
    parameters: int
    context: int
    """Largest number of tokens of prompt and answer together, of a text to embed, or of a window of a classifier."""
    dimensions: int | None = None
    """Numbers in a vector of an embedding model."""
    labels: list[str] | None = None
    """The labels of a classifier."""
    dtype: str
    quantize: Literal["int8", "int4"] | None
    config: dict[str, Any]
    card: str | None
    """The model card (README.md) in Markdown."""
    lineage: list[Link]
