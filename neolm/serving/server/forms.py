"""From what a model writes to the shapes that clients get, and from our errors to theirs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel

from neolm.serving.server.answer import Asking, Finish, Judged, Piece
from neolm.serving.server.failure import ApiError
from neolm.serving.server.replies import Link, ModelCard, ModelEntry
from neolm.serving.server.schema import ChatRequest, CompletionRequest, Sampling
from neolm.serving.server.shelf import Model

Chunk = dict[str, Any]


@dataclass
class Gained:
    """What a choice has so far."""

    text: str = ""
    tokens: list[Judged] = field(default_factory=list)
    finish: Finish | None = None


class Form(ABC):
    """One request's answer as it is sent, whole or in chunks."""

    kind: str  # of the whole answer, and of a chunk
    chunk_kind: str

    def __init__(self, id: str, body: Sampling) -> None:
        self.body = body
        self.choices: dict[int, Gained] = {}
        self._head: Chunk = {"id": id, "created": int(time.time()), "model": body.model}

    @abstractmethod
    def _choice(self, gained: Gained) -> Chunk:
        """A choice that is complete."""

    @abstractmethod
    def _part(self, piece: Piece) -> Chunk:
        """What a piece adds to its choice."""

    @abstractmethod
    def _logprobs(self, tokens: Sequence[Judged]) -> Chunk | None:
        """Scores, if they were asked for."""

    def add(self, piece: Piece) -> None:
        """Keep a piece for `whole`."""
        gained = self.choices.setdefault(piece.choice, Gained())
        gained.text += piece.text
        gained.tokens += piece.tokens
        gained.finish = piece.finish or gained.finish

    def whole(self, asked: Asking) -> Chunk:
        """The answer in one piece."""
        choices = [
            self._choice(gained) | _place(number, self._logprobs(gained.tokens), gained.finish)
            for number, gained in sorted(self.choices.items())
        ]
        return self._head | {"object": self.kind, "choices": choices, "usage": _usage(asked)}

    def chunk(self, piece: Piece) -> Chunk:
        """A piece as a chunk of a stream."""
        choice = self._part(piece) | _place(piece.choice, self._logprobs(piece.tokens), piece.finish)
        return self._head | {"object": self.chunk_kind, "choices": [choice]}

    def last(self, asked: Asking) -> Iterator[Chunk]:
        """What ends a stream."""
        if self.body.usage_in_stream:
            yield self._head | {"object": self.chunk_kind, "choices": [], "usage": _usage(asked)}


class CompletionForm(Form):
    """A continued text."""

    kind = chunk_kind = "text_completion"

    def __init__(self, id: str, body: CompletionRequest) -> None:
        super().__init__(id, body)
        self._wanted = body.logprobs

    def _choice(self, gained: Gained) -> Chunk:
        return {"text": gained.text}

    def _part(self, piece: Piece) -> Chunk:
        return {"text": piece.text}

    def _logprobs(self, tokens: Sequence[Judged]) -> Chunk | None:
        if self._wanted is None:
            return None
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_likeliest(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }


class ChatForm(Form):
    """An answer in a conversation. The space with which models begin to speak is not a part of it."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"

    def __init__(self, id: str, body: ChatRequest) -> None:
        super().__init__(id, body)
        self._wanted = body.logprobs

    def _choice(self, gained: Gained) -> Chunk:
        return {"message": {"role": "assistant", "content": gained.text.lstrip(), "refusal": None}}

    def _part(self, piece: Piece) -> Chunk:
        begun = piece.choice in self.choices
        gained = self.choices.setdefault(piece.choice, Gained())
        text = piece.text if gained.text else piece.text.lstrip()
        gained.text += text
        delta = {} if begun else {"role": "assistant", "content": ""}
        return {"delta": delta | ({"content": text} if text else {})}

    def _logprobs(self, tokens: Sequence[Judged]) -> Chunk | None:
        return {"content": [_judged(token) for token in tokens], "refusal": None} if self._wanted else None


def _place(number: int, logprobs: Chunk | None, finish: Finish | None) -> Chunk:
    """What every choice has."""
    return {"index": number, "logprobs": logprobs, "finish_reason": finish}


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
    left_out = {} if asked.left_out is None else {"left_out_tokens": asked.left_out}
    return counts | {"total_tokens": sum(counts.values())} | left_out


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
        message = _NOT_HERE.get(place[-1], "this is not known here")
    if param is None:  # a rule between fields begins with the name of one
        name = message.partition(" ")[0]
        return ApiError(400, message, name if name in _FIELDS else None, "invalid_value")
    return ApiError(400, f"{param}: {message}", param, "invalid_value")


_FIELDS = {*CompletionRequest.model_fields, *ChatRequest.model_fields}
_NOT_HERE = dict.fromkeys(("tools", "functions", "tool_calls", "function_call"), "these models call no tools")
