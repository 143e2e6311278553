"""One request to a model: prompts in, texts and log-probabilities out, as they come.

An `Asking` is checked before its model is loaded; `pieces` then gives what each choice gains, and in the end
why it ended. Whoever leaves it early cancels what is under way.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from neolm.core.errors import InputError
from neolm.generation.config import GenerationConfig
from neolm.generation.text import TextStream
from neolm.serving.engine import Engine
from neolm.serving.request import EngineClosedError, Event, Finished, PromptLogprobs, QueueFullError, Request, Token
from neolm.serving.server.failure import ApiError
from neolm.serving.server.keys import Client
from neolm.serving.server.measures import Measures
from neolm.serving.server.settings import ServeConfig
from neolm.serving.server.shelf import Model

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Judged:
    """A token as a client sees it."""

    text: str
    raw: bytes
    logprob: float | None
    alternatives: tuple[tuple[str, bytes, float], ...]
    offset: int  # characters of prompt and answer before it


@dataclass(frozen=True)
class Piece:
    """What one choice gains."""

    choice: int
    text: str
    tokens: tuple[Judged, ...] = ()
    finish: Finish | None = None


@dataclass
class Asking:
    """What is asked of a model: each of `prompts` continued `samples` times; choices are numbered prompt by prompt."""

    model: Model
    prompts: Sequence[list[int]]
    config: GenerationConfig
    samples: int = 1
    logprobs: int | None = None
    echo: Sequence[str] | None = None  # prompts as they are given back
    left_out: int | None = None  # tokens of longer prompts, if those may be cut
    later_stop: tuple[str, ...] = ()  # ends an answer too, but not in the space that it begins with
    prompt_tokens: int = field(init=False)
    completion_tokens: int = 0
    written: int = 0  # tokens, those included that nobody read

    def __post_init__(self) -> None:
        self.prompt_tokens = sum(max(1, len(prompt)) for prompt in self.prompts)

    def check(self, settings: ServeConfig) -> None:
        """Refuse what is too much before the engine hears of it.

        Raises:
            ApiError: 400, a prompt or an answer is too long, or there are too many.
        """
        longest = max(map(len, self.prompts))
        context = self.model.context
        most = min(context, settings.prompt_tokens or context)
        if longest > most:
            what = f"the model's context is {context}" if most == context else f"this server takes {most}"
            raise ApiError(400, f"the prompt is {longest} tokens, {what}", None, "context_length_exceeded")
        room = context + 1 - min(map(len, self.prompts))
        if min(self.config.max_new_tokens, room) > settings.max_tokens:
            words = f"max_tokens is {self.config.max_new_tokens}, this server writes {settings.max_tokens} at the most"
            raise ApiError(400, words, "max_tokens", "invalid_value")
        answers = len(self.prompts) * self.samples
        if answers > settings.queue:
            words = f"{answers} texts are asked for, {settings.queue} may wait at a time"
            raise ApiError(400, words, "prompt", "invalid_value")
        if self.echo is not None and self.logprobs is not None:
            scores = self.samples * sum(map(len, self.prompts)) * (1 + self.logprobs)
            if scores > settings.scores:
                words = f"{scores:,} log-probabilities of prompts are asked for, {settings.scores:,} may be"
                raise ApiError(400, words, "logprobs", "invalid_value")
        if self.config.max_new_tokens > 1 and answers > settings.choices:
            param = "n" if self.samples > 1 else "prompt"
            raise ApiError(400, f"{answers} answers are asked for, {settings.choices} may be", param, "invalid_value")

    @property
    def reserved(self) -> int:
        """The most tokens that it may use, prompts included."""
        room = self.model.context + 1
        return self.prompt_tokens + self.samples * sum(
            max(0, min(self.config.max_new_tokens, room - len(prompt))) for prompt in self.prompts
        )

    async def pieces(
        self, engine: Engine, client: Client, measures: Measures, patience: float = 1.0
    ) -> AsyncGenerator[Piece | None, None]:
        """What the choices gain, in the order in which it comes; None after each `patience` seconds of nothing.

        Raises:
            ApiError: the request is refused, or the engine fails.
        """
        client.reserve(self.reserved)
        began, name = time.monotonic(), self.model.name
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        choices = [_Choice(number, self, number // self.samples) for number in range(len(self.prompts) * self.samples)]
        requests: list[Request] = []
        left = len(choices)
        first = True
        try:
            for choice in choices:
                requests.append(self._submit(engine, choice, loop, events))  # noqa: PERF401 - if one is refused, the others end
            while left:
                try:
                    async with asyncio.timeout(patience):
                        number, event = await events.get()
                except TimeoutError:
                    yield None
                    continue
                choice = choices[number]
                if isinstance(event, Token):
                    self.completion_tokens += 1
                    if first:
                        measures.first.labels(name).observe(time.monotonic() - began)
                        first = False
                if choice.over:
                    continue
                # The scores of a whole prompt take their time, and others wait for the loop.
                slow = isinstance(event, PromptLogprobs)
                piece = await asyncio.to_thread(choice.take, event) if slow else choice.take(event)
                if piece is not None and piece.finish is not None:
                    requests[number].cancel()
                    left -= 1
                if piece is not None:
                    yield piece
        finally:
            if left:
                measures.cancelled.labels(name).inc(left)
            for request in requests:
                request.cancel()
            read = self.prompt_tokens if len(requests) == len(choices) else 0  # else it was refused
            client.give_back(self.reserved - read - self.written)
            measures.tokens.labels(name, "prompt").inc(read)
            measures.tokens.labels(name, "completion").inc(self.written)

    def _submit(
        self,
        engine: Engine,
        choice: _Choice,
        loop: asyncio.AbstractEventLoop,
        events: asyncio.Queue[tuple[int, Event]],
    ) -> Request:
        def deliver(event: Event) -> None:  # in the engine's thread, the only one that counts
            self.written += isinstance(event, Token)
            loop.call_soon_threadsafe(events.put_nowait, (choice.number, event))

        try:
            return engine.submit(
                self.prompts[choice.prompt],
                self.config,
                deliver,
                index=choice.number % self.samples,
                logprobs=self.logprobs,
                prompt_logprobs=self.echo is not None and self.logprobs is not None,
            )
        except InputError as error:
            raise ApiError(400, str(error)) from None
        except EngineClosedError as error:
            raise ApiError(503, str(error), None, "engine_closed", 5) from None
        except QueueFullError as error:
            raise ApiError(429, f"the server is busy: {error}", None, "queue_full", 5) from None


class _Choice:
    """One continuation as it grows."""

    def __init__(self, number: int, asking: Asking, prompt: int) -> None:
        self.number, self.prompt, self.over = number, prompt, False
        self._asking = asking
        self._text = TextStream(asking.config.stop, asking.later_stop)
        self._given_back = asking.echo is None
        self._offsets = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def take(self, event: Event) -> Piece | None:
        """What the event adds."""
        echoed = self._echo() if not self._given_back and not isinstance(event, PromptLogprobs) else ""
        if isinstance(event, PromptLogprobs):
            judged = tuple(self._judge(token) for token in event.tokens)
            return Piece(self.number, self._echo(), judged)
        if isinstance(event, Finished):
            self.over = True
            finish = _FINISH.get(event.reason)
            if finish is None:  # an error, or cancelled by the engine's own end
                status = 503 if event.error is None else 500
                raise ApiError(status, str(event.error or "the engine was closed"), None, None, 5)
            return Piece(self.number, echoed + self._text.finish(), (), finish)
        tokenizer = self._asking.model.tokenizer
        shown = tokenizer.decode_bytes([event.id]) if event.id != tokenizer.eos_token_id else b""
        text = echoed + self._text.feed(shown)
        judged = () if self._asking.logprobs is None else (self._judge(event),)
        if self._text.stopped:
            self.over = True
            return Piece(self.number, text, judged, "stop")
        return Piece(self.number, text, judged) if text or judged else None

    def _echo(self) -> str:
        self._given_back = True
        assert self._asking.echo is not None
        return self._asking.echo[self.prompt]

    def _judge(self, token: Token) -> Judged:
        text, raw = self._spelled(token.id)
        offset = self._length
        self._length += len(self._offsets.decode(raw))
        alternatives = tuple((*self._spelled(other), logprob) for other, logprob in token.alternatives)
        return Judged(text, raw, token.logprob, alternatives, offset)

    def _spelled(self, token: int) -> tuple[str, bytes]:
        """A token's bytes, and a text that no other token has: bytes that are no text are spelled out."""
        raw = self._asking.model.tokenizer.decode_bytes([token])
        try:
            return raw.decode(), raw
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw


_FINISH: dict[str, Finish] = {"end of text": "stop", "stop": "stop", "length": "length", "context": "length"}
