"""The model pool: the models that a server offers, loaded while they are used and memory is free.

A model is loaded when a request names it. If memory is short, the least recently used models that no request uses are
closed; if all are in use, the request waits, and later requests for the models in use wait behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from neolm.core.errors import InputError, NeoLMError
from neolm.core.progress import gibibytes, say
from neolm.serving.server.errors import ApiError
from neolm.serving.server.servable import Servable

S = TypeVar("S", bound=Servable)


@dataclass(eq=False)
class Slot(Generic[S]):
    """A model in the pool, and its state."""

    model: S
    loaded: bool = False
    loading: asyncio.Task[None] | None = None
    num_requests: int = 0  # requests that use it or wait for it
    num_users: int = 0  # those of them that use it
    last_used: float = 0.0


class ModelPool(Generic[S]):
    """Models by name, of any kind."""

    def __init__(self, models: Iterable[S], memory: int) -> None:
        """Take the models; none is loaded yet. Raises `InputError` if two share a name or one exceeds the memory."""
        self.memory = memory  # bytes
        self.slots: dict[str, Slot[S]] = {}
        for model in models:
            if model.name in self.slots:
                raise InputError(f"serve: two models are called {model.name}; give them names: NAME=DIRECTORY")
            if model.size > memory:
                raise InputError(
                    f"serve: {model.name} takes {gibibytes(model.size)}, weights and KV cache; {gibibytes(memory)} are "
                    "for models. Quantised weights (--quantize int4), a smaller text_memory or context take less"
                )
            self.slots[model.name] = Slot(model)
        self.models = {name: slot.model for name, slot in self.slots.items()}
        self.preloading = False
        self._released = asyncio.Event()  # a request has stopped using a model
        self._load_lock = asyncio.Lock()
        self._blocked: Slot[S] | None = None  # waits until other models are no longer in use
        self._unblocked = asyncio.Event()

    @property
    def loaded(self) -> list[S]:
        """The models in memory."""
        return [slot.model for slot in self.slots.values() if slot.loaded]

    def find(self, name: str) -> S:
        """Return the model of that name. Raises `ApiError` (404) if there is none."""
        if name not in self.models:
            names = ", ".join(list(self.models)[:10])
            problem = f"the model '{name[:200]}' does not exist here; available: {names}"
            raise ApiError(404, problem, "model", "model_not_found")
        return self.models[name]

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[S]:
        """Load the model if necessary; it stays loaded inside the block. Raises `ApiError` (404, 503) if it cannot."""
        slot = self.slots[self.find(name).name]
        slot.num_requests += 1
        try:
            if slot.loaded and slot.model.failed:
                slot.loaded = False
            while not slot.loaded or self._blocked not in (None, slot):
                if slot.loaded:  # another model waits for memory, and is served first
                    await self._unblocked.wait()
                    continue
                if slot.loading is None:  # a separate task, because this request may be cancelled before others
                    slot.loading = asyncio.create_task(self._load(slot))
                    slot.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.shield(slot.loading)
            slot.num_users += 1
            try:
                yield slot.model
            finally:
                slot.num_users -= 1
        finally:
            slot.num_requests -= 1
            slot.last_used = time.monotonic()
            self._released.set()

    async def preload(self) -> None:
        """Load the models in their order, as long as they fit."""
        self.preloading = True
        try:
            for slot in self.slots.values():
                if self._fits(slot):
                    try:
                        async with self.use(slot.model.name):
                            pass
                    except Exception as error:  # the same error is returned to each request for this model
                        say(f"serve: {slot.model.name}: {error}")
        finally:
            self.preloading = False

    def _fits(self, slot: Slot[S]) -> bool:
        return sum(model.size for model in self.loaded) + slot.model.size <= self.memory

    async def _load(self, slot: Slot[S]) -> None:
        model, started = slot.model, time.monotonic()
        try:
            async with self._load_lock:
                await asyncio.to_thread(model.close)  # if it has failed
                await asyncio.to_thread(model.check)  # no other model is closed for one that cannot be loaded
                try:
                    await self._free_memory(slot)
                finally:
                    self._blocked = None
                    self._unblocked.set()
                await asyncio.to_thread(model.start)
                slot.loaded = True
                say(f"serve: {model.name} is loaded, {gibibytes(model.size)} in {time.monotonic() - started:.1f} s")
        except ApiError:
            raise
        except NeoLMError as error:
            say(f"serve: {model.name} cannot be loaded: {error}")
            problem = f"{model.name} cannot be loaded; the server's log says why"
            raise ApiError(503, problem, None, "model_not_loaded", 30) from None
        finally:
            slot.loading = None

    async def _free_memory(self, slot: Slot[S]) -> None:
        """Close unused models until this one fits, and wait for others to become unused if that is not enough."""
        while not self._fits(slot):
            if not slot.num_requests:
                raise ApiError(503, f"no request waits for {slot.model.name}", None, "model_not_loaded", 30)
            unused = [other for other in self.slots.values() if other.loaded and not other.num_users]
            if unused:
                oldest = min(unused, key=lambda other: other.last_used)
                oldest.loaded = False
                say(f"serve: {oldest.model.name} is closed to load {slot.model.name}")
                await asyncio.to_thread(oldest.model.close)
            else:
                self._blocked = slot
                self._unblocked.clear()
                self._released.clear()
                await self._released.wait()

    def close(self) -> None:
        """Close all models; their requests are cancelled."""
        for slot in self.slots.values():
            if slot.loaded:
                slot.loaded = False
                slot.model.close()


def model_name(argument: str) -> tuple[str, str]:
    """Split `NAME=PATH` into name and path; without a name it is the directory's (for `x/model` that of `x`)."""
    name, equals, path = argument.partition("=")
    if equals and name and "/" not in name and not Path(argument).exists():
        return name, path
    if not Path(argument).is_dir():
        return argument, argument  # a hub id
    resolved = Path(argument).resolve()
    parts = [part for part in resolved.parts if part != resolved.anchor]
    while len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return (parts[-1] if parts else "model"), argument
