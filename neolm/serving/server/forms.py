"""From what a model writes to the shapes that clients get, and from our errors to theirs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel

from neolm.serving.server.answer import Asking, Finish, Judged, Piece
from neolm.serving.server.failure import ApiError
from neolm.serving.server.schema import (
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    Link,
    ModelCard,
    ModelEntry,
    Sampling,
)
from neolm.serving.server.shelf import Model

Chunk = dict[str, Any]


@dataclass
class Gained:
    """What a choice has so far."""

    text: str = ""
    tokens: list[Judged] = field(default_factory=list)
    finish: Finish | None = None
    begun: bool = False


class Form(Protocol):
    """One request's answer as it is sent."""

    body: Sampling
    choices: dict[int, Gained]

    def add(self, piece: Piece) -> None:
        """Keep a piece for `whole`."""
        ...

    def whole(self, asked: Asking) -> BaseModel:
        """The answer in one piece."""
        ...

    def chunks(self, piece: Piece) -> Iterator[Chunk]:
        """A piece as chunks of a stream."""
        ...

    def last(self, asked: Asking) -> Iterator[Chunk]:
        """What ends a stream."""
        ...


class _Form:
    kind = ""

    def __init__(self, id: str, body: Any) -> None:
        self.body = body
        self.choices: dict[int, Gained] = {}
        self._head: Chunk = {"id": id, "object": self.kind, "created": int(time.time()), "model": body.model}

    def add(self, piece: Piece) -> None:
        gained = self.choices.setdefault(piece.choice, Gained())
        gained.text += piece.text
        gained.tokens += piece.tokens
        gained.finish = piece.finish or gained.finish

    def last(self, asked: Asking) -> Iterator[Chunk]:
        if self.body.usage_in_stream:
            yield self._head | {"choices": [], "usage": _usage(asked)}


class CompletionForm(_Form):
    """A continued text."""

    kind = "text_completion"

    def __init__(self, id: str, body: CompletionRequest) -> None:
        super().__init__(id, body)

    def whole(self, asked: Asking) -> Completion:
        """See `Form`."""
        choices = [
            {
                "index": number,
                "text": gained.text,
                "logprobs": self._logprobs(gained.tokens),
                "finish_reason": gained.finish,
            }
            for number, gained in sorted(self.choices.items())
        ]
        return Completion.model_validate(self._head | {"choices": choices, "usage": _usage(asked)})

    def chunks(self, piece: Piece) -> Iterator[Chunk]:
        """See `Form`."""
        yield self._head | {
            "choices": [
                {
                    "index": piece.choice,
                    "text": piece.text,
                    "logprobs": self._logprobs(piece.tokens),
                    "finish_reason": piece.finish,
                }
            ]
        }

    def _logprobs(self, tokens: Sequence[Judged]) -> dict[str, Any] | None:
        if self.body.logprobs is None:
            return None
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_likeliest(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }


class ChatForm(_Form):
    """An answer in a conversation. The space with which models begin to speak is not a part of it."""

    kind = "chat.completion"

    def __init__(self, id: str, body: ChatRequest) -> None:
        super().__init__(id, body)

    def whole(self, asked: Asking) -> ChatCompletion:
        """See `Form`."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": gained.text.lstrip()},
                "logprobs": self._logprobs(gained.tokens),
                "finish_reason": gained.finish,
            }
            for number, gained in sorted(self.choices.items())
        ]
        return ChatCompletion.model_validate(self._head | {"choices": choices, "usage": _usage(asked)})

    def chunks(self, piece: Piece) -> Iterator[Chunk]:
        """See `Form`."""
        gained = self.choices.setdefault(piece.choice, Gained())
        text = piece.text if gained.text else piece.text.lstrip()
        gained.text += text
        delta: dict[str, str] = {}
        if not gained.begun:
            gained.begun = True
            delta["role"] = "assistant"
            delta["content"] = ""
        if text:
            delta["content"] = text
        choice = {
            "index": piece.choice,
            "delta": delta,
            "logprobs": self._logprobs(piece.tokens),
            "finish_reason": piece.finish,
        }
        yield self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def last(self, asked: Asking) -> Iterator[Chunk]:
        """See `Form`."""
        for chunk in super().last(asked):
            yield chunk | {"object": "chat.completion.chunk"}

    def _logprobs(self, tokens: Sequence[Judged]) -> dict[str, Any] | None:
        if not self.body.logprobs:
            return None
        return {"content": [_judged(token) for token in tokens], "refusal": None}


def _judged(token: Judged) -> dict[str, Any]:
    others = [_alternative(text, raw, logprob) for text, raw, logprob in token.alternatives]
    return _alternative(token.text, token.raw, token.logprob or 0.0) | {"top_logprobs": others}


def _alternative(text: str, raw: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(raw)}


def _likeliest(token: Judged) -> dict[str, float] | None:
    """The likeliest tokens, and the one that stands there; none for the first of a prompt."""
    if token.logprob is None:
        return None
    return {text: logprob for text, _, logprob in token.alternatives} | {token.text: token.logprob}


def _usage(asked: Asking) -> dict[str, int]:
    counts = {"prompt_tokens": asked.prompt_tokens, "completion_tokens": asked.completion_tokens}
    return counts | {"total_tokens": sum(counts.values())}


def entry(model: Model) -> ModelEntry:
    """A model in the list of models."""
    return ModelEntry(
        id=model.name,
        created=model.created,
        context=model.context,
        family=model.facts.config.family,
        parameters=model.facts.parameters,
        loaded=model.engine is not None,
        chat_template=model.template.kind,
    )


def card(model: Model) -> ModelCard:
    """All about a model; reads files."""
    facts = model.facts
    return ModelCard(
        id=model.name,
        digest=model.digest,
        family=facts.config.family,
        parameters=facts.parameters,
        context=model.context,
        dtype=str(facts.dtype).removeprefix("torch."),
        quantize={8: "int8", 4: "int4"}.get(facts.bits or 0),  # type: ignore[arg-type]
        config=asdict(facts.config)
        if not isinstance(facts.config, BaseModel)
        else facts.config.model_dump(mode="json"),
        card=model.card(),
        lineage=[Link.model_validate(link) for link in model.lineage()],
    )


def invalid(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first thing that is wrong with a body, by its name."""
    problem = problems[0]
    place = [str(part) for part in problem["loc"] if part not in ("body", "query", "path")]
    # Names of alternatives of a union and of validators are ours, not the client's.
    param = ".".join(part for part in place if part.isidentifier() or part.isdigit()) or None
    if problem["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON", None, "invalid_json")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "this is not known here"
    return ApiError(400, f"{param}: {message}" if param else message, param, "invalid_value")
