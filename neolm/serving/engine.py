"""Continuous batching (Yu et al. 2022) over a paged KV cache: one model decodes many requests at once.

    with Engine(model, eos_token_id=..., vocab_size=...) as engine:
        listener = Listener()
        request = engine.submit([1, 2, 3], config, listener)
        for token_id in listener: ...

With the same seed, a request gets the same tokens as when it is served alone. On a CPU this holds bit by bit, except
that a prefix from the cache may differ in the last bit from computing it in this request's own chunks. With `strict`
only prefixes with equal bits are shared; on a GPU `strict` also computes each request alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from neolm.core.errors import InputError, NeoLMError
from neolm.generation.batch import FinishReason, check_logit_bias, check_prompts, end_token_ids
from neolm.generation.config import GenerationConfig
from neolm.generation.kv_cache import KVCache, Span, block_bytes, blocks_for, kv_cache_dtype
from neolm.generation.model_runner import model_runner_for
from neolm.generation.sampling import prompt_generators
from neolm.kernels.attention import BLOCK_SIZE
from neolm.models.decoder import Decoder
from neolm.serving.block_manager import BlockManager
from neolm.serving.request import EngineClosedError, Event, Finished, PromptLogprobs, QueueFullError, Request, Token
from neolm.serving.sampler import collect_prompt_logprobs, sample_tokens
from neolm.serving.scheduler import Scheduler


class Engine:
    """Decodes many requests. Call `submit` from any thread; call `step` from one thread, or let `start` do it."""

    def __init__(
        self,
        model: Decoder,
        eos_token_id: int | None = None,
        vocab_size: int | None = None,
        memory: int = 2**30,
        max_running: int = 64,
        max_waiting: int = 1024,
        chunk_size: int | None = None,
        strict: bool = False,
        context: int | None = None,
    ) -> None:
        """Allocate the KV cache; on a CPU, memory is used only as it is written to.

        Args:
            model: The decoder.
            eos_token_id: The tokenizer's end of text. It and the end tokens of the model's files end a text, unless
                the request's config ignores them; None: no token does.
            vocab_size: Only token ids below this are sampled.
            memory: Bytes for the KV cache; an `InputError` if they hold less than one text as long as the context.
            max_running: Requests that are prefilled or decoded at a time; the others wait.
            max_waiting: Requests that may wait; further ones are refused.
            chunk_size: Prompt tokens computed between two decoding steps; a multiple of 16.
            strict: The same bits under any load, with less sharing of prefixes.
            context: Longest text in tokens; None: the model's context.
        """
        self.model, self.eos_token_id = model, eos_token_id
        self.end_token_ids = end_token_ids(model, eos_token_id)
        self.vocab_size = min(vocab_size or model.config.vocab_size, model.config.vocab_size)
        longest = model.config.max_position_embeddings
        self.context, self.strict = min(context or longest, longest), strict
        dtype = kv_cache_dtype(model)
        per_block = block_bytes(model.config, dtype)
        num_blocks = memory // per_block
        if num_blocks < blocks_for(self.context):
            raise InputError(
                f"memory: {memory / 2**20:,.0f} MiB hold {num_blocks * BLOCK_SIZE:,} tokens of this model, less than "
                f"its context; give it at least {blocks_for(self.context) * per_block / 2**20:,.0f} MiB"
            )
        self.model_runner = model_runner_for(model)
        self.kv_cache = KVCache(model.config, num_blocks, dtype, model.device)
        on_cpu = model.device.type == "cpu"
        # A GPU computes many prompts in the time of one. On a CPU one after another gives the first its token sooner.
        self._prefill_together = not on_cpu and not strict
        chunk_size = chunk_size or (64 if on_cpu else 4096)
        self.scheduler = Scheduler(BlockManager(num_blocks), chunk_size, max_running, strict)
        self._max_waiting = max_waiting
        self._submitted: deque[Request] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed_because: str | None = None

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._submitted) + len(self.scheduler.waiting)

    @property
    def num_running(self) -> int:
        """Number of requests that are prefilled or decoded."""
        return len(self.scheduler.running)

    @property
    def closed(self) -> bool:
        """Whether the engine was closed or has failed; it accepts no more requests then."""
        return self._closed_because is not None

    def submit(
        self,
        token_ids: Sequence[int],
        config: GenerationConfig,
        deliver: Callable[[Event], None],
        index: int = 0,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        cache_salt: str = "",
        sibling: Request | None = None,
        scored_from: int = 0,
    ) -> Request:
        """Add a request. `deliver` gets each `Token`, and last `Finished`, in the engine's thread.

        Args:
            token_ids: The prompt; an empty one is replaced by the end-of-text token.
            config: Length and sampling. The engine ignores `stop`: the caller finds stop strings and cancels.
            deliver: The callback; it must not block.
            index: Index of this sample among those with the same prompt and seed; each has its own random numbers.
            logprobs: Number of alternatives to deliver with each token's log-probability; None: neither.
            prompt_logprobs: Also deliver the log-probabilities of the prompt, as one `PromptLogprobs` event.
            cache_salt: Cached prefixes are shared only among requests with the same salt.
            sibling: An earlier request with the same prompt, or the same beginning; this one waits until that is
                computed, and shares it.
            scored_from: With `prompt_logprobs`, the first token whose log-probability is needed: what is cached of the
                tokens before it is shared, and has no log-probabilities.

        Raises:
            InputError: see `check_prompts` and `check_logit_bias` in `neolm.generation.batch`.
            QueueFullError: too many requests are waiting.
            EngineClosedError: the engine was closed or has failed.
        """
        [prompt] = check_prompts(self.model, [token_ids], self.eos_token_id, self.context)
        check_logit_bias(config, self.vocab_size)
        generator = prompt_generators([prompt] * (index + 1), config.seed)[index]
        length = len(prompt) + config.max_new_tokens
        # The last token is never computed, so a text may have one token more than the context.
        limit = self.context + 1
        reason: FinishReason = "length" if length <= limit else "context"
        scored: list[Token] | None = [] if prompt_logprobs else None
        request = Request(prompt, config, generator, min(length, limit), reason, deliver, logprobs, scored)
        request.cache_salt, request.sibling, request.scored_from = cache_salt, sibling, scored_from
        with self._changed:
            if self._closed_because is not None:
                raise EngineClosedError(self._closed_because)
            if self.num_waiting >= self._max_waiting:
                raise QueueFullError(f"{self._max_waiting} requests are waiting already")
            self._submitted.append(request)
            self._changed.notify()
        return request

    @torch.inference_mode()
    def step(self) -> bool:
        """Prefill some prompts, then decode one token of each text; return False if there was nothing to do."""
        self._admit()
        prefill = self.scheduler.schedule_prefill()
        for batch in [prefill] if prefill and self._prefill_together else [[chunk] for chunk in prefill]:
            self._execute(batch)
        decode = self.scheduler.schedule_decode()
        if decode:
            self._execute(decode)
        return bool(prefill or decode)

    def _admit(self) -> None:
        """Finish cancelled and empty requests, and admit waiting ones."""
        with self._changed:
            self.scheduler.waiting.extend(self._submitted)
            self._submitted.clear()
        for request in [*self.scheduler.waiting, *self.scheduler.running]:
            if request.cancelled:
                self._finish(request, Finished("cancelled"))
            elif (
                len(request.token_ids) >= request.max_length
                and request.prompt_logprobs is None
                and not request.waits_for_sibling
            ):
                self._finish(request, Finished(request.reason_at_max_length))
        self.scheduler.admit()

    def _execute(self, batch: Sequence[tuple[Request, Span]]) -> None:
        """Compute the spans of a batch of requests, and sample a token where a text is computed to its end."""
        try:
            logits = self._logits([span for _, span in batch])[:, : self.vocab_size]
            complete: list[Request] = []
            last_rows: list[int] = []  # of the complete requests
            first_rows = accumulate((span.num_logits for _, span in batch), initial=0)
            for (request, span), row in zip(batch, first_rows, strict=False):
                if request.prompt_logprobs is not None and span.start < request.num_prompt_tokens:
                    collect_prompt_logprobs(request, span, logits[row : row + span.num_logits])
                if span.start + len(span.ids) == len(request.token_ids):
                    complete.append(request)
                    last_rows.append(row + span.num_logits - 1)
            selected = logits if len(last_rows) == len(logits) else logits[last_rows]
            tokens = sample_tokens(selected, complete) if complete else []
        except NeoLMError as error:
            for request, _ in batch:
                self._finish(request, Finished("error", error))
            return
        for request, span in batch:
            self.scheduler.update(request, len(span.ids))
        for request, token in zip(complete, tokens, strict=True):
            if isinstance(token, Token):
                self._append(request, token)
            else:
                self._finish(request, Finished("error", token))

    def _logits(self, spans: list[Span]) -> Tensor:
        if self.strict and self.model.device.type != "cpu":
            return torch.cat([self.model_runner.run(self.kv_cache, [span]) for span in spans])
        return self.model_runner.run(self.kv_cache, spans)

    def _append(self, request: Request, token: Token) -> None:
        """Add a sampled token to its request, deliver it, and finish the request if it is complete."""
        if request.prompt_logprobs is not None and len(request.token_ids) == request.num_prompt_tokens:
            self._deliver(request, PromptLogprobs(tuple(request.prompt_logprobs)))
        if len(request.token_ids) < request.max_length:  # otherwise the prompt is only scored
            if token.id in self.end_token_ids and not request.config.ignore_eos:
                self._finish(request, Finished("end of text"))
                return
            request.token_ids.append(token.id)
            self._deliver(request, token)
        if len(request.token_ids) >= request.max_length:
            self._finish(request, Finished(request.reason_at_max_length))

    def _finish(self, request: Request, finished: Finished) -> None:
        self.scheduler.remove(request)
        request.finished = finished
        self._deliver(request, finished)

    def _deliver(self, request: Request, event: Event) -> None:
        """Call the request's callback; a request whose callback fails is cancelled."""
        try:
            request.deliver(event)
        except Exception:  # raised by the caller's own code, which no other request depends on
            request.cancel()

    def start(self) -> Engine:
        """Run `step` in a thread until `close`; returns self."""
        self._thread = threading.Thread(target=self._run, name="neolm-engine", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while True:
            try:
                busy = self.step()
            except Exception as error:  # whatever it is, every request has to be finished
                self._fail(NeoLMError(f"the engine failed: {error}"))
                raise
            if busy:
                continue
            with self._changed:
                if self.closed and not self._submitted:
                    return
                if not self._submitted:
                    # `Request.cancel` does not notify, so waiting requests are looked at every 0.1 seconds.
                    self._changed.wait(timeout=0.1 if self.scheduler.waiting else None)

    def _fail(self, error: NeoLMError) -> None:
        with self._changed:
            self._closed_because = str(error)
            self.scheduler.waiting.extend(self._submitted)
            self._submitted.clear()
        for request in [*self.scheduler.waiting, *self.scheduler.running]:
            self._finish(request, Finished("error", error))

    def close(self, finish: bool = False) -> None:
        """Accept no more requests, and wait until all have ended; they are cancelled, or completed with `finish`."""
        with self._changed:
            self._closed_because = self._closed_because or "the engine is closed"
            if not finish:
                for request in [*self._submitted, *self.scheduler.waiting, *self.scheduler.running]:
                    request.cancel()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()
