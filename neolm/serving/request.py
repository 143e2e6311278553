"""A request to the engine, the events that it produces, and the errors of the engine.

States: waiting (no memory reserved yet), prefilling (its prompt is computed), decoding (one token a step), finished.
"""

from __future__ import annotations

import queue
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from neolm.core.errors import NeoLMError
from neolm.generation.batch import FinishReason
from neolm.generation.config import GenerationConfig
from neolm.generation.kv_cache import BlockTable
from neolm.serving.block_manager import PrefixId


class QueueFullError(NeoLMError):
    """Too many requests are waiting."""


class EngineClosedError(NeoLMError):
    """The engine was closed, or it failed earlier."""


@dataclass(frozen=True, slots=True)
class Token:
    """A generated or scored token; log-probabilities are present only if they were requested."""

    id: int
    logprob: float | None = None  # natural logarithm, under the model's distribution before any sampling setting
    alternatives: tuple[tuple[int, float], ...] = ()  # the most likely (token, logprob) pairs, best first


@dataclass(frozen=True)
class PromptLogprobs:
    """The scored tokens of a prompt, delivered before the first generated token; the first one has no logprob."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class Finished:
    """The last event of a request: why it finished (a `FinishReason`, "cancelled" or "error"), and the error."""

    reason: str
    error: NeoLMError | None = None


Event = Token | PromptLogprobs | Finished


@dataclass(eq=False)
class Request:
    """One prompt and its continuation; `deliver` is called with each event in the engine's thread, must not block."""

    token_ids: list[int]  # prompt and continuation
    config: GenerationConfig
    generator: random.Random
    max_length: int  # of `token_ids`
    reason_at_max_length: FinishReason
    deliver: Callable[[Event], None]
    logprobs: int | None = None  # number of alternatives with each token; None: no log-probabilities
    prompt_logprobs: list[Token] | None = None  # collected during prefill; None: not requested
    scored_from: int = 0  # first prompt token whose log-probability is needed
    cache_salt: str = ""  # prefixes are shared with requests that have the same one
    sibling: Request | None = None  # a request with the same beginning, which is computed first and then shared
    num_prompt_tokens: int = field(init=False)
    num_computed_tokens: int = 0  # tokens whose keys and values are in the KV cache
    num_cached_blocks: int = 0  # of its blocks, those that other requests can share
    prefix_id: PrefixId = ""  # of the last cached block, from the block manager
    block_ids: list[int] = field(default_factory=list)
    block_table: BlockTable = field(default_factory=lambda: np.zeros(0, np.int64))
    times_overtaken: int = 0  # later requests that were admitted first
    cancelled: bool = False
    finished: Finished | None = None

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)

    @property
    def num_new_tokens(self) -> int:
        """Number of tokens to compute before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def waits_for_sibling(self) -> bool:
        """Whether the prompt of its sibling is not computed yet."""
        one = self.sibling
        return (
            one is not None
            and one.finished is None
            and not one.cancelled
            and one.num_computed_tokens < one.num_prompt_tokens
        )

    def cancel(self) -> None:
        """Stop the request from any thread; its memory is free before the engine's next step."""
        self.cancelled = True


class Listener:
    """A `deliver` callback that another thread reads as an iterator of token ids; `finished` is set at the end."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.finished: Finished | None = None

    def __call__(self, event: Event) -> None:
        """Receive an event."""
        self._events.put(event)

    def __iter__(self) -> Iterator[int]:
        while not isinstance(event := self._events.get(), Finished):
            if isinstance(event, Token):
                yield event.id
        self.finished = event
