"""A run: one job on its engine, with deadline, cancellation and accounting."""

from __future__ import annotations

import asyncio
import codecs
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from neolm.core.errors import InputError
from neolm.generation.text import TextStream
from neolm.serving.engine import Engine
from neolm.serving.request import EngineClosedError, Event, Finished, PromptLogprobs, QueueFullError, Request, Token
from neolm.serving.server.answer_moderation import AnswerModeration
from neolm.serving.server.batch_result import CHECK_SECONDS
from neolm.serving.server.delta import Delta, FinishReason, ScoredToken
from neolm.serving.server.errors import ApiError
from neolm.serving.server.generation_model import GenerationModel
from neolm.serving.server.job import Job
from neolm.serving.server.service import Service
from neolm.serving.server.turn import Sender, Turn

_FINISH_REASONS: dict[str, FinishReason] = {"end of text": "stop", "length": "length", "context": "length"}


class Run(Turn[Job]):
    """Makes a job and executes it. `deltas` yields what each choice gains; `facts` is for the request log."""

    def __init__(
        self,
        model: GenerationModel,
        make: Callable[[], Job],
        service: Service,
        sender: Sender,
        quick: bool,
        texts: Callable[[], Sequence[str]],
    ) -> None:
        """See `Turn`."""
        super().__init__(model, make, service, sender, quick, texts)
        self.completion_tokens = 0
        self._generated = 0  # tokens, those included that nobody has read
        self._texts: defaultdict[int, str] = defaultdict(str)  # by choice, if texts are logged

    @property
    def usage(self) -> dict[str, int]:
        """Numbers of tokens, as the API reports them."""
        counts = {"prompt_tokens": self.job.prompt_tokens, "completion_tokens": self.completion_tokens}
        truncated = {} if self.job.truncated is None else {"left_out_tokens": self.job.truncated}
        return counts | {"total_tokens": sum(counts.values())} | truncated

    @property
    def facts(self) -> dict[str, Any]:
        """Fields of the request log."""
        facts = super().facts | {"completion_tokens": self.completion_tokens}
        if self._service.log.text:
            facts["answers"] = [self._texts[choice] for choice in sorted(self._texts)]
        return facts

    async def deltas(self) -> AsyncGenerator[Delta | None, None]:
        """Make the job, load the model, submit the prompts, and yield deltas as they arrive.

        After each second without one, None is yielded. Closing the generator cancels what is not finished.

        Raises:
            ApiError: refused, failed, too long, or stopping.
        """
        job = await self.wait_for_job()
        metrics = self._service.metrics
        # The samples of a prompt share it, but `strict` shares only some of it.
        prompt_tokens = job.prompt_tokens * (job.samples if self._service.settings.strict else 1)
        choices = [_Choice(number, job) for number in range(job.num_choices)]
        events: asyncio.Queue[tuple[_Choice, Event]] = asyncio.Queue()
        requests: list[Request] = []
        moderated = self._moderated()
        remaining = len(choices)
        async with AsyncExitStack() as stack:
            engine: Engine = await self.load(stack)
            reserved = prompt_tokens + job.max_new_tokens
            self._client.tokens.spend(reserved)
            submitted = time.monotonic()
            try:
                for choice in choices:
                    same = choice.number % job.samples if job.scored is None else choice.number
                    choice.request = self._submit(engine, choice, events, requests[-same] if same else None)
                    requests.append(choice.request)
                while remaining:
                    try:
                        async with asyncio.timeout(CHECK_SECONDS):  # in Python 3.11 `wait_for` makes a task each time
                            choice, event = await events.get()
                    except TimeoutError:
                        self.check_deadline()
                        yield None
                        continue
                    self.check_deadline()
                    if isinstance(event, Token):
                        if self.completion_tokens == 0:
                            metrics.first_token.labels(job.model.name).observe(time.monotonic() - submitted)
                        self.completion_tokens += 1
                    if choice.finished:
                        continue
                    for new in await self._deltas_of(event, choice, choices):
                        delta = new if moderated is None else await moderated.passed(new)
                        if delta is None:
                            continue
                        if delta.finish_reason == "content_filter":
                            choices[delta.choice].stop()
                        remaining -= delta.finish_reason is not None
                        if self._service.log.text:
                            self._texts[delta.choice] += delta.text
                        yield delta
            finally:
                for request in requests:
                    request.cancel()
                self._account(remaining, reserved, prompt_tokens if len(requests) == len(choices) else 0)

    def _moderated(self) -> AnswerModeration | None:
        moderation = self._service.moderation
        return (
            None
            if moderation is None or self.job.scored is not None  # nothing is written
            else AnswerModeration(moderation, self.client_id, self.check_deadline, self.decisions)
        )

    async def _deltas_of(self, event: Event, choice: _Choice, choices: list[_Choice]) -> list[Delta]:
        """What an event adds to its choice, or the scores of a prompt to all its samples."""
        if not isinstance(event, PromptLogprobs):
            delta = choice.add(event)
            return [] if delta is None else [delta]
        # The log-probabilities of a long prompt take a while, and other requests need the event loop.
        tokens = await asyncio.to_thread(choice.score_prompt, event)
        samples = choices[choice.number : choice.number + self.job.samples]
        return [sample.begin(tokens, choice) for sample in samples]

    def _submit(
        self, engine: Engine, choice: _Choice, events: asyncio.Queue[tuple[_Choice, Event]], sibling: Request | None
    ) -> Request:
        loop, job = asyncio.get_running_loop(), self.job
        prompt = job.prompts[choice.number // job.samples]

        def deliver(event: Event) -> None:  # in the engine's thread; no other thread changes the count
            self._generated += isinstance(event, Token)
            loop.call_soon_threadsafe(events.put_nowait, (choice, event))

        try:
            return engine.submit(
                prompt,
                job.config,
                deliver,
                index=choice.number % job.samples,
                logprobs=job.logprobs,
                prompt_logprobs=job.prompt_logprobs and (sibling is None or job.scored is not None),
                scored_from=0 if job.scored is None else len(prompt) - job.scored[choice.number],
                cache_salt=self._client.cache_salt if not self._service.settings.share_prefixes else "",
                sibling=sibling,
            )
        except InputError as error:
            raise ApiError(400, str(error)) from None
        except EngineClosedError as error:
            raise ApiError(503, str(error), None, "engine_closed", 5) from None
        except QueueFullError as error:
            raise ApiError(429, f"the server is busy: {error}", None, "queue_full", 5) from None

    def _account(self, unfinished: int, reserved: int, prompt_tokens: int) -> None:
        metrics, name = self._service.metrics, self.job.model.name
        if unfinished:
            metrics.cancelled.labels(name).inc(unfinished)
        self._client.tokens.level += reserved - prompt_tokens - self._generated
        metrics.tokens.labels(name, "prompt").inc(prompt_tokens)
        metrics.tokens.labels(name, "completion").inc(self._generated)


class _Choice:
    """One answer as it grows."""

    def __init__(self, number: int, job: Job) -> None:
        self.number, self._job = number, job
        self.request: Request | None = None
        self.finished = False
        self._text = TextStream(job.config.stop, job.chat_stop)
        self._echo = job.echo[number // job.samples] if job.echo is not None else ""
        self._blank = job.chat  # no text but space so far, which is left out
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._prompt = job.prompts[number // job.samples]
        self._length = 0  # characters of prompt and answer
        if job.logprobs is not None and not job.prompt_logprobs:  # otherwise they are counted with the prompt's tokens
            self._length = len(self._decoder.decode(job.model.tokenizer.decode_bytes(self._prompt)))

    def score_prompt(self, event: PromptLogprobs) -> tuple[ScoredToken, ...]:
        """The tokens of the prompt."""
        # An empty prompt is scored as an end-of-text token, which its text does not have.
        return tuple(self._scored(token, shown=bool(self._prompt)) for token in event.tokens)

    def begin(self, tokens: tuple[ScoredToken, ...], scored: _Choice) -> Delta:
        """Return the prompt with its tokens, which the choice `scored` with the same prompt has scored."""
        self._length = scored._length
        self._decoder.setstate(scored._decoder.getstate())
        text, self._echo = self._echo, ""
        return Delta(self.number, text, tokens)

    def stop(self) -> None:
        """Generate no more, and ignore what was generated."""
        self.finished = True
        assert self.request is not None
        self.request.cancel()

    def add(self, event: Token | Finished) -> Delta | None:
        """Return what the event adds, if anything. Raises `ApiError`: the engine failed (500) or was closed (503)."""
        tokens: tuple[ScoredToken, ...] = ()
        finish_reason: FinishReason | None = None
        text = ""
        if isinstance(event, Finished):
            finish_reason = _FINISH_REASONS.get(event.reason)
            if finish_reason is None:
                status, problem = (503, "the engine was closed") if event.error is None else (500, str(event.error))
                raise ApiError(status, problem, None, None, 5)
            text = self._text.finish()
        else:
            model = self._job.model
            shown = event.id not in model.end_token_ids
            text = self._text.feed(model.tokenizer.decode_bytes([event.id]) if shown else b"")
            tokens = (self._scored(event, shown),) if self._job.logprobs is not None else ()
            if self._text.stopped:
                finish_reason = "stop"
                assert self.request is not None
                self.request.cancel()
        if self._blank:
            text = text.lstrip()
            self._blank = not text
        text, self._echo = self._echo + text, ""
        self.finished = finish_reason is not None
        return Delta(self.number, text, tokens, finish_reason) if text or tokens or self.finished else None

    def _scored(self, token: Token, shown: bool) -> ScoredToken:
        """The token with texts and offset; `shown` is whether its text is part of prompt or answer."""
        text, raw = self._spell(token.id)
        offset = self._length
        self._length += len(self._decoder.decode(raw)) if shown else 0
        alternatives = tuple((*self._spell(other), logprob) for other, logprob in token.alternatives)
        return ScoredToken(text, raw, token.logprob, alternatives, offset)

    def _spell(self, token_id: int) -> tuple[str, bytes]:
        """The token as text and bytes; bytes that are not UTF-8 are escaped, so that no two tokens look the same."""
        raw = self._job.model.tokenizer.decode_bytes([token_id])
        try:
            return raw.decode(), raw
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw
