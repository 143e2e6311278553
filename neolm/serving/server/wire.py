"""Answers as OpenAI's API writes them: the same choices, whole as JSON or in chunks as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from neolm.serving.server.delta import Delta, ScoredToken
from neolm.serving.server.errors import ApiError
from neolm.serving.server.request_schema import ChatRequest, CompletionRequest
from neolm.serving.server.run import Run
from neolm.serving.server.turn import Turn

_STREAM_HEADERS = Headers(
    {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        "x-accel-buffering": "no",  # a proxy must not collect the stream
    }
)
_KEEP_ALIVE_SECONDS = 15  # of silence in a stream, after which a comment is sent
Json = dict[str, Any]


class Wire:
    """The JSON objects of one answer."""

    def __init__(self, body: CompletionRequest | ChatRequest) -> None:
        self._chat = isinstance(body, ChatRequest)
        prefix = "chatcmpl-" if self._chat else "cmpl-"
        self._head: Json = {"id": prefix + uuid.uuid4().hex, "created": int(time.time()), "model": body.model}
        self.stream = bool(body.stream)
        self.stream_usage = body.stream_options is not None and body.stream_options.include_usage
        self._with_logprobs = body.logprobs is not None and body.logprobs is not False
        self._started: set[int] = set()  # choices of a stream whose role was sent

    def whole(self, deltas: Iterable[Delta], usage: Json) -> Json:
        """The answer as one object."""
        by_choice: defaultdict[int, list[Delta]] = defaultdict(list)
        for delta in deltas:
            by_choice[delta.choice].append(delta)
        choices = []
        for choice, parts in sorted(by_choice.items()):
            text, tokens = "".join(part.text for part in parts), tuple(token for part in parts for token in part.tokens)
            message = {"message": {"role": "assistant", "content": text, "refusal": None}}
            content = message if self._chat else {"text": text}
            last = parts[-1]
            choices.append(self._choice(content, Delta(choice, text, tokens, last.finish_reason, last.moderation)))
        kind = "chat.completion" if self._chat else "text_completion"
        return self._head | {"object": kind, "choices": choices, "usage": usage}

    def chunk(self, delta: Delta) -> Json:
        """New text of one choice as a chunk of a stream."""
        content: Json = {"text": delta.text}
        if self._chat:
            role = {} if delta.choice in self._started else {"role": "assistant", "content": ""}
            self._started.add(delta.choice)
            content = {"delta": role | ({"content": delta.text} if delta.text else {})}
        # With `include_usage` every chunk has the field, as in OpenAI's API.
        return self._chunk([self._choice(content, delta)]) | ({"usage": None} if self.stream_usage else {})

    def usage_chunk(self, usage: Json) -> Json:
        """The last chunk of a stream, if usage was requested."""
        return self._chunk([]) | {"usage": usage}

    def _chunk(self, choices: list[Json]) -> Json:
        return self._head | {"object": "chat.completion.chunk" if self._chat else "text_completion", "choices": choices}

    def _choice(self, content: Json, delta: Delta) -> Json:
        logprobs = None
        if self._with_logprobs:
            logprobs = _chat_logprobs(delta.tokens) if self._chat else _completion_logprobs(delta.tokens)
        moderation = {} if delta.moderation is None else {"moderation": delta.moderation}
        end = {"finish_reason": delta.finish_reason}
        return content | {"index": delta.choice, "logprobs": logprobs} | end | moderation


def _completion_logprobs(tokens: Sequence[ScoredToken]) -> Json:
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [  # the first token of a prompt has none
            None
            if token.logprob is None
            else {text: logprob for text, _, logprob in token.alternatives} | {token.text: token.logprob}
            for token in tokens
        ],
        "text_offset": [token.offset for token in tokens],
    }


def _chat_logprobs(tokens: Iterable[ScoredToken]) -> Json:
    content = [
        _chat_token(token.text, token.raw, token.logprob or 0.0)
        | {"top_logprobs": [_chat_token(*alternative) for alternative in token.alternatives]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _chat_token(text: str, raw: bytes, logprob: float) -> Json:
    return {"token": text, "logprob": logprob, "bytes": list(raw)}


class TurnResponse(Response):
    """Executes a request's turn and sends what comes of it; it is cancelled when the client disconnects."""

    def __init__(self, turn: Turn[Any]) -> None:
        super().__init__()
        self._turn = turn

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer. An `ApiError` before the first byte becomes an error response."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, unless the client disconnects."""

        async def send_flags(message: Message) -> None:
            if message["type"] == "http.response.start" and self._turn.flags:
                MutableHeaders(scope=message)["X-Moderation-Flags"] = self._turn.flags
            await send(message)

        answer = asyncio.create_task(self.answer(scope, receive, send_flags))
        disconnect = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait({answer, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
        finally:
            disconnect.cancel()
            answer.cancel()
            await asyncio.wait({answer})
            scope["state"]["facts"] = self._turn.facts


class AnswerResponse(TurnResponse):
    """Sends the answer of a run. An `ApiError` after the first byte becomes an error event of the stream."""

    def __init__(self, run: Run, wire: Wire) -> None:
        super().__init__(run)
        self._run, self._wire = run, wire
        self._started = False

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, whole or in chunks."""
        await (self._stream(send) if self._wire.stream else self._whole(scope, receive, send))

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._run.deltas()) as deltas:
            parts = [delta async for delta in deltas if delta is not None]
        # Log-probabilities can be many megabytes of JSON, and other requests need the event loop.
        response = await asyncio.to_thread(lambda: JSONResponse(self._wire.whole(parts, self._run.usage)))
        self._started = True
        await response(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        silence = 0
        try:
            async with aclosing(self._run.deltas()) as deltas:
                async for delta in deltas:
                    silence = silence + 1 if delta is None else 0
                    if delta is not None:
                        await self._send(send, _event(self._wire.chunk(delta)))
                    elif silence % _KEEP_ALIVE_SECONDS == 0:
                        await self._send(send, b": keep-alive\n\n")
            if self._wire.stream_usage:
                await self._send(send, _event(self._wire.usage_chunk(self._run.usage)))
        except ApiError as error:
            if not self._started:
                raise
            await self._send(send, _event(error.body))
        await self._send(send, b"data: [DONE]\n\n", more=False)

    async def _send(self, send: Send, data: bytes, more: bool = True) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS.raw})
        await send({"type": "http.response.body", "body": data, "more_body": more})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(content: Json) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
