"""One model that writes for many at once: continuous batching (Yu et al. 2022) over paged keys and values.

    with Engine(model, eos_token_id=..., vocab_size=...) as engine:
        listener = Listener()
        request = engine.submit([1, 2, 3], config, listener)
        for token in listener: ...

A text gets the tokens that it gets alone with the same seed. On a CPU that holds bit by bit, since no sum depends on
who else is served, but for one thing: a beginning that others have read, or that was written, is not read again, and
may differ in the last bit from what reading it in one's own pieces gives. `strict` shares only what is the same bits;
on a GPU it reads each text by itself.

What it leaves out: several models, text (`neolm.generation.text` makes it of tokens), speculation.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from types import TracebackType

import torch
from torch import Tensor

from neolm.core.errors import InputError, NeoLMError, NonFiniteError
from neolm.generation.batch import check_logit_bias, check_prompts
from neolm.generation.config import GenerationConfig
from neolm.generation.kv_cache import KVCache, Span, block_bytes, blocks_for, kv_cache_dtype
from neolm.generation.model_runner import model_runner_for
from neolm.generation.sampling import apply_penalties, has_penalties, prompt_generators, sample
from neolm.models.decoder import Decoder
from neolm.serving.page_keeper import PageKeeper
from neolm.serving.request import Ended, Event, RefusedError, Request, Scored, Token, total_tokens
from neolm.serving.scheduler import Scheduler


class Engine:
    """Decodes for many requests; `submit` from any thread, `step` from one, or let `start` do that."""

    def __init__(
        self,
        model: Decoder,
        eos_token_id: int | None = None,
        vocab_size: int | None = None,
        memory: int = 2**30,
        most: int = 64,
        queue: int = 1024,
        chunk: int | None = None,
        strict: bool = False,
    ) -> None:
        """Take the memory for keys and values; on a CPU it is used as texts grow.

        Args:
            model: The decoder.
            eos_token_id: Ends a text, unless its config ignores it.
            vocab_size: Only ids below it are chosen.
            memory: Bytes for keys and values.
            most: Texts that are read or written at a time; others wait.
            queue: Requests that may wait; more are refused.
            chunk: Tokens of prompts that are read between two tokens of those who write; a multiple of 16.
            strict: The same bits under any load, at the price of what sharing saves.

        Raises:
            InputError: the memory does not hold one text as long as the context.
        """
        self.model, self.eos_token_id = model, eos_token_id
        self.vocab_size = vocab_size or model.config.vocab_size
        self.context, self._queue, self.strict = model.config.max_position_embeddings, queue, strict
        self.reader = model_runner_for(model)
        dtype = kv_cache_dtype(model)
        each, count = block_bytes(model.config, dtype), memory // block_bytes(model.config, dtype)
        if count < blocks_for(self.context):
            raise InputError(
                f"memory: {memory / 2**20:,.0f} MiB hold {count * 16:,} tokens of this model, less than its context; "
                f"give it at least {blocks_for(self.context) * each / 2**20:,.0f} MiB"
            )
        self.pages = KVCache(model.config, count, dtype, model.device)
        # A GPU has room for many prompts at once; a CPU is busy with one, and whoever is first should hear at once.
        self._together = model.device.type != "cpu" and not strict
        chunk = chunk or (64 if model.device.type == "cpu" else 4096)
        self.scheduler = Scheduler(PageKeeper(count), chunk, most, strict)
        self._arrived: deque[Request] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing: str | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._arrived) + len(self.scheduler.waiting)

    @property
    def running(self) -> int:
        """Requests that are read or written."""
        return len(self.scheduler.reading) + len(self.scheduler.writing)

    @property
    def closed(self) -> bool:
        """Whether it takes no more requests."""
        return self._closing is not None

    def submit(
        self,
        ids: Sequence[int],
        config: GenerationConfig,
        deliver: Callable[[Event], None],
        index: int = 0,
        logprobs: int | None = None,
        score_prompt: bool = False,
    ) -> Request:
        """Ask for what follows a prompt; `deliver` gets its tokens and then `Ended`, in the engine's thread.

        Args:
            ids: The prompt; an empty one is the end-of-text token.
            config: Length and sampling; `stop` is the caller's business, through `Request.cancel`.
            deliver: Must not block.
            index: The how manieth sample of the same prompt and seed this is, from 0: each gets draws of its own.
            logprobs: Tell each token's log-probability, and so many likeliest tokens in its place.
            score_prompt: Tell the prompt's tokens with theirs, too, in one `Scored` before all others.

        Raises:
            InputError: as `neolm.generation.batch.check_prompts` and `check_logit_bias`.
            RefusedError: too many wait already, or the engine is closed.
        """
        [prompt] = check_prompts(self.model, [ids], self.eos_token_id)
        check_logit_bias(config, self.vocab_size)
        limit, why = total_tokens(prompt, config, self.context)
        stream = prompt_generators([prompt] * (index + 1), config.seed)[index]
        scores: list[Token] | None = [] if score_prompt else None
        request = Request(prompt, config, stream, limit, why, deliver, logprobs, scores)
        with self._changed:
            if self._closing is not None:
                raise RefusedError(self._closing)
            if self.waiting >= self._queue:
                raise RefusedError(f"{self._queue} requests wait already")
            self._arrived.append(request)
            self._changed.notify()
        return request

    @torch.inference_mode()
    def step(self) -> bool:
        """Read some of the prompts, then write a token of each text; False: there was nothing to do."""
        self._welcome()
        pieces = self.scheduler.next_pieces()
        for part in [pieces] if pieces and self._together else [[piece] for piece in pieces]:
            self._read(part)
        writing = self.scheduler.next_tokens()
        if writing:
            self._read(writing)
        return bool(pieces or writing)

    def _welcome(self) -> None:
        """Take in new requests and let go of cancelled ones."""
        with self._changed:
            while self._arrived:
                self.scheduler.waiting.append(self._arrived.popleft())
        scheduler = self.scheduler
        for request in [*scheduler.waiting, *scheduler.reading, *scheduler.writing]:
            if request.cancelled:
                self._end(request, "cancelled")
            elif len(request.ids) >= request.limit and request.scores is None:  # nothing was asked for
                self._end(request, request.end_at_limit)
        scheduler.let_in()

    def _read(self, chosen: Sequence[tuple[Request, Span]]) -> None:
        """Read spans of requests; those whose text is read to its end get a token."""
        try:
            logits = self._logits([span for _, span in chosen])[:, : self.vocab_size]
            due: list[Request] = []
            last: list[int] = []  # their rows of the logits
            rows = accumulate((span.num_logits for _, span in chosen), initial=0)
            for (request, span), row in zip(chosen, rows, strict=False):
                if request.scores is not None and span.start < request.prompt:
                    self._score(request, span, logits[row : row + span.num_logits])
                if span.start + len(span.ids) == len(request.ids):
                    due.append(request)
                    last.append(row + span.num_logits - 1)
            tokens = self._choose(logits if len(last) == len(logits) else logits[last], due) if due else []
        except NeoLMError as error:
            for request, _ in chosen:
                self._end(request, str(error))
            return
        for request, span in chosen:
            self.scheduler.was_read(request, len(span.ids))
        for request, token in zip(due, tokens, strict=True):
            if isinstance(token, Token):
                self._give(request, token)
            else:
                self._end(request, token)

    def _score(self, request: Request, span: Span, logits: Tensor) -> None:
        """Note the scores of the prompt's tokens that follow those of `span`; its logits are (tokens, V)."""
        assert request.scores is not None
        if span.start == 0:
            request.scores.append(Token(request.ids[0]))
        following = request.ids[span.start + 1 : min(span.start + len(span.ids) + 1, request.prompt)]
        request.scores += [
            _judged(token, row, request.logprobs or 0)
            for token, row in zip(following, logits.log_softmax(-1), strict=False)
        ]

    def _logits(self, spans: list[Span]) -> Tensor:
        if self.strict and self.model.device.type != "cpu":
            return torch.cat([self.reader.run(self.pages, [span]) for span in spans])
        return self.reader.run(self.pages, spans)

    def _choose(self, logits: Tensor, requests: Sequence[Request]) -> list[Token | str]:
        """The next token of each request, or why there is none; those with the same settings are drawn together."""
        groups: dict[tuple[object, ...], list[int]] = {}
        adjusted = logits
        for row, request in enumerate(requests):
            config = request.config
            settings = (config.temperature, config.top_k, config.top_p)
            groups.setdefault((0.0,) if config.temperature == 0 else settings, []).append(row)
            if has_penalties(config):
                adjusted = logits.clone() if adjusted is logits else adjusted
                adjusted[row] = apply_penalties(logits[row], request.ids, request.prompt, config)
        tokens: list[int | str] = [0] * len(requests)
        for rows in groups.values():
            streams = [requests[row].stream for row in rows]
            part = adjusted if len(rows) == len(requests) else adjusted[rows]
            for row, token in zip(rows, _chosen(part, requests[rows[0]].config, streams), strict=True):
                tokens[row] = token
        return [
            token
            if isinstance(token, str)
            else Token(token)
            if request.logprobs is None
            else _judged(token, own.log_softmax(-1), request.logprobs)
            for token, request, own in zip(tokens, requests, logits, strict=True)
        ]

    def _give(self, request: Request, token: Token) -> None:
        if request.scores is not None and len(request.ids) == request.prompt:
            self._tell(request, Scored(tuple(request.scores)))
            if len(request.ids) >= request.limit:
                self._end(request, request.end_at_limit)
                return
        if token.id == self.eos_token_id and not request.config.ignore_eos:
            self._end(request, "end of text")
            return
        request.ids.append(token.id)
        self._tell(request, token)
        if len(request.ids) >= request.limit:
            self._end(request, request.end_at_limit)

    def _end(self, request: Request, why: str) -> None:
        self.scheduler.remove(request)
        request.ended = why
        self._tell(request, Ended(why))

    def _tell(self, request: Request, event: Event) -> None:
        """Give a client an event; one who cannot take it is let go, and nobody else hears of it."""
        try:
            request.deliver(event)
        except Exception:  # a client's own code
            request.cancel()

    def start(self) -> Engine:
        """Step in a thread of its own until `close`. Returns self."""
        self._thread = threading.Thread(target=self._run, name="neolm-engine", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while True:
            try:
                busy = self.step()
            except Exception as error:  # whatever it is, those who wait must hear of it
                self._fail(f"the engine failed: {error}")
                raise
            if busy:
                continue
            with self._changed:
                if self._closing is not None and not self._arrived:
                    return
                if not self._arrived:
                    # Cancelled requests have no condition of their own to wait for.
                    self._changed.wait(timeout=0.1 if self.scheduler.waiting else None)

    def _fail(self, why: str) -> None:
        with self._changed:
            self._closing = why
            self.scheduler.waiting.extend(self._arrived)
            self._arrived.clear()
        for request in [*self.scheduler.waiting, *self.scheduler.reading, *self.scheduler.writing]:
            self._end(request, why)

    def close(self, finish: bool = False) -> None:
        """Take no more requests; those under way are cancelled, or with `finish` go on to their end."""
        with self._changed:
            self._closing = self._closing or "the engine is closed"
            scheduler = self.scheduler
            if not finish:
                for request in [*self._arrived, *scheduler.waiting, *scheduler.reading, *scheduler.writing]:
                    request.cancel()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _chosen(logits: Tensor, config: GenerationConfig, streams: Sequence[random.Random]) -> Sequence[int | str]:
    """A token for each row of logits (B, V), or why there is none: one's broken numbers are not the others' end."""
    try:
        return list(sample(logits, config, streams).tolist())
    except NonFiniteError as error:  # nothing has been drawn yet
        if len(streams) == 1:
            return [str(error)]
    return [_chosen(row[None], config, [stream])[0] for row, stream in zip(logits, streams, strict=True)]


def _judged(token: int, logprobs: Tensor, alternatives: int) -> Token:
    """A token with its log-probability (of V) and the likeliest ones."""
    likeliest = logprobs.topk(min(alternatives, len(logprobs)))
    pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    return Token(token, float(logprobs[token]), tuple(pairs))
