"""A request's turn: it waits in the model's queue for its job, then for the model, within its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from neolm.serving.server.errors import ApiError, StoppingError
from neolm.serving.server.keys import Client
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.service import Service

CHECK_SECONDS = 1.0
"""Time between two looks at the deadline while nothing happens."""
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


class Turn(Generic[J]):
    """Makes a job and loads its model; subclasses execute it. `facts` is for the request log."""

    def __init__(
        self, model: ServedModel, make: Callable[[], J], service: Service, sender: Sender, quick: bool
    ) -> None:
        """`make` returns the job; `quick` is whether its time depends on the size of the request only."""
        self._quick = quick and sender.num_bytes <= _QUICK_BYTES
        self._model, self._make, self._service, self._sender = model, make, service, sender
        self._job: J | None = None
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
        if self._service.log.text:
            facts["prompts"] = [self._model.tokenizer.decode(prompt) for prompt in job.prompts] if job else []
        return facts

    async def wait_for_job(self) -> J:
        """Wait for the turn of this request in the model's queue, unless the server stops or it takes too long."""
        if self._service.stopping:
            raise StoppingError
        if self._quick:
            self._job = self._make()
            return self._job
        making = asyncio.ensure_future(self._model.jobs.make(self.client_id, self._sender.num_bytes, self._make))
        making.add_done_callback(lambda task: task.cancelled() or task.exception())  # retrieved if nobody waits
        try:
            while not making.done():
                if self._service.stopping:
                    raise StoppingError
                self.check_deadline()
                await asyncio.wait({making}, timeout=CHECK_SECONDS)
        finally:
            making.cancel()
        self._job = making.result()
        return self._job

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
