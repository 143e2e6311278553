"""A prompt under way: what was asked, how far it has come, and who is told.

States: waiting (no memory yet), reading (its prompt), writing (a token a step), ended.
"""

from __future__ import annotations

import itertools
import queue
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from neolm.core.errors import NeoLMError
from neolm.generation.batch import FinishReason
from neolm.generation.config import GenerationConfig
from neolm.generation.kv_cache import BlockTable

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text; `logprob` and the likeliest tokens in its place only if they were asked for."""

    id: int
    logprob: float | None = None  # of the model's own distribution, before any setting changes it; natural logarithm
    alternatives: tuple[tuple[int, float], ...] = ()  # (token, logprob), the likeliest first


@dataclass(frozen=True)
class Scored:
    """The prompt, token by token, if its scores were asked for; the first has none. Told before anything is written."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Ended:
    """The last thing a request is told: why no more tokens come."""

    why: FinishReason | str  # a str: cancelled, or the error's text


Event = Token | Scored | Ended


@dataclass(eq=False)
class Request:
    """One client's prompt; `deliver` is called with each event, in the engine's thread, and must not block."""

    ids: list[int]  # the prompt and what followed it
    config: GenerationConfig
    stream: random.Random
    limit: int  # `ids` may grow to this length
    end_at_limit: FinishReason
    deliver: Callable[[Event], None]
    logprobs: int | None = None  # alternatives that are told with each token; None: no probabilities either
    scores: list[Token] | None = None  # of the prompt as it is read; None: not asked for
    number: int = field(default_factory=lambda: next(_numbers))
    pages: list[int] = field(default_factory=list)
    table: BlockTable = field(default_factory=lambda: np.zeros(0, np.int64))
    held: int = 0  # tokens whose keys and values are in the pages
    known: int = 0  # of its pages, those that others may find
    serial: int = 0  # of the last of them, in the page keeper's count
    prompt: int = 0  # tokens of the prompt
    passed: int = 0  # requests that came later and were let in before it
    cancelled: bool = False
    ended: str | None = None

    def __post_init__(self) -> None:
        self.prompt = len(self.ids)

    @property
    def unread(self) -> int:
        """Tokens that are to be read before the next one is known."""
        return len(self.ids) - self.held

    @property
    def readable(self) -> int:
        """The most tokens that are ever held: the last one is never read, but for the prompt's."""
        return max(self.limit - 1, self.prompt)

    def cancel(self) -> None:
        """Stop: its memory is free before the next step. Any thread may say so."""
        self.cancelled = True


class Listener:
    """Receives a request's events in another thread, as an iterator of tokens; `why` says how it ended."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.why: str | None = None

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self._events.put(event)

    def __iter__(self) -> Iterator[int]:
        while True:
            event = self._events.get()
            if isinstance(event, Ended):
                self.why = event.why
                return
            if isinstance(event, Token):
                yield event.id


class RefusedError(NeoLMError):
    """The engine does not take a request: it is full, or closed."""

    exit_code = 1


def total_tokens(prompt: Sequence[int], config: GenerationConfig, context: int) -> tuple[int, FinishReason]:
    """How long the text may become, and what ends it then; the last token is never read, so it may be one more."""
    longest = len(prompt) + config.max_new_tokens
    return (longest, "length") if longest <= context + 1 else (context + 1, "context")
