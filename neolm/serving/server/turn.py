"""A request's turn: it waits in the model's queue for its job, then for the model, within its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import quote

from neolm.moderation.moderator import Encoded
from neolm.serving.server.batch_result import CHECK_SECONDS
from neolm.serving.server.errors import ApiError, StoppingError
from neolm.serving.server.job_queue import JobQueue
from neolm.serving.server.keys import Client
from neolm.serving.server.moderation import Moderation
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.service import Service

_QUICK_BYTES = 4096  # of requests whose texts are encoded at once: in a millisecond, less than a thread would take


@dataclass(frozen=True)
class Sender:
    """Where a request comes from, and the size of its body."""

    client: Client
    address: str
    num_bytes: int


class AnyJob(Protocol):
    """What jobs of all kinds have in common."""

    @property
    def prompts(self) -> Any:
        """Token ids of each text."""

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of all texts."""


J = TypeVar("J", bound=AnyJob)
T = TypeVar("T")


class Turn(Generic[J]):
    """Makes a job and loads its model; subclasses execute it. `facts` is for the request log."""

    def __init__(
        self,
        model: ServedModel,
        make: Callable[[], J],
        service: Service,
        sender: Sender,
        quick: bool,
        texts: Callable[[], Sequence[str]],
    ) -> None:
        """Take what a request asks for.

        Args:
            model: Its model.
            make: Returns the job.
            service: The state of the server.
            sender: Who asks.
            quick: Whether the time of `make` depends on the size of the request only.
            texts: Returns the texts of the request, for the moderation policy.
        """
        self._prompt_texts, self.decisions = texts, list[str]()
        self._quick = quick and sender.num_bytes <= _QUICK_BYTES
        self._model, self._make, self._service, self._sender = model, make, service, sender
        self._job: J | None = None
        self.flags = ""
        """Categories for which the moderation policy has flagged the prompt."""
        self._client = sender.client
        self._deadline = time.monotonic() + service.settings.request_seconds

    @property
    def job(self) -> J:
        """The job, once it is made."""
        assert self._job is not None
        return self._job

    @property
    def client_id(self) -> tuple[str, ...] | str:
        """Who takes turns: a key, or without keys an address."""
        return self._client.name if self._client.entry else (self._sender.address,)

    @property
    def facts(self) -> dict[str, Any]:
        """Fields of the request log."""
        job = self._job  # None if the request was refused or cancelled earlier
        facts: dict[str, Any] = {"model": self._model.name, "prompt_tokens": job.prompt_tokens if job else 0}
        if self.decisions:
            facts["moderation"] = self.decisions
        if self._service.log.text:
            facts["prompts"] = [self._model.tokenizer.decode(prompt) for prompt in job.prompts] if job else []
        return facts

    async def wait_for_job(self) -> J:
        """Make the job, and let the moderation policy judge its texts.

        Raises:
            ApiError: the request is refused, its texts are blocked, it takes too long, or the server stops.
        """
        if self._service.stopping:
            raise StoppingError
        self._job = self._make() if self._quick else await self._queued(self._model.jobs, self._make)
        if self._service.moderation is not None:
            await self._judge_prompt(self._service.moderation)
        return self._job

    async def _judge_prompt(self, moderation: Moderation) -> None:
        async def encode() -> list[Encoded]:
            return await self._queued(moderation.jobs, lambda: moderation.encode(self._prompt_texts()))

        scores = await moderation.judge(encode, self.client_id, self.check_deadline)
        decision = moderation.decide(scores, "prompt")
        self.decisions += [decision.note] if decision.note else []
        moderation.check_prompt(decision)
        self.flags = quote(decision.names, safe=" ,/") if decision.action == "flag" else ""

    async def _queued(self, queue: JobQueue, make: Callable[[], T]) -> T:
        """Call `make` when it is the turn of this request in a queue."""
        making = asyncio.ensure_future(queue.make(self.client_id, self._sender.num_bytes, make))
        making.add_done_callback(lambda task: task.cancelled() or task.exception())  # retrieved if nobody waits
        try:
            while not making.done():
                if self._service.stopping:
                    raise StoppingError
                self.check_deadline()
                await asyncio.wait({making}, timeout=CHECK_SECONDS)
        finally:
            making.cancel()
        return making.result()

    async def load(self, stack: AsyncExitStack) -> Any:
        """The engine of the model, which stays loaded until `stack` is closed."""
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):  # `wait_for` can lose a cancellation
                model = await stack.enter_async_context(self._service.pool.use(self._model.name))
        except TimeoutError:
            raise ApiError(504, "the model was not loaded in time", None, "request_timeout") from None
        assert model.engine is not None  # while the model is in use
        return model.engine

    def check_deadline(self) -> None:
        """Raise an `ApiError` if the request takes too long, or the server stops and its time is over."""
        if time.monotonic() >= min(self._deadline, self._service.stop_at):
            if self._service.stopping:
                raise StoppingError
            raise ApiError(504, "the request takes longer than this server allows", None, "request_timeout")
