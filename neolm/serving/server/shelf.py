"""The models that a server offers: in memory while they are asked for and there is room, else on disk.

A model is loaded when a request names it. If there is no room, those that nobody uses go first, the longest unused
before the others; if all are in use, the request waits until one is free.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from neolm.core.artifact import chain, read_manifest
from neolm.core.device import choose_device, free_memory
from neolm.core.errors import InputError, NeoLMError
from neolm.core.files import digest_path
from neolm.core.progress import gibibytes, say
from neolm.generation.config import generation_config
from neolm.generation.generate import check_tokenizer
from neolm.generation.kv_cache import block_bytes, blocks_for
from neolm.models.hf import ModelFacts, load_model, model_facts
from neolm.serving.engine import Engine
from neolm.serving.request import Listener, RefusedError
from neolm.serving.server.failure import ApiError
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.chat import ChatTemplate, load_chat_template
from neolm.tokenizer.tokenizer import Tokenizer, load_tokenizer

_SHARE = 0.8  # of free memory, for models


@dataclass(eq=False)
class Model:
    """A model that can be asked for; `engine` is there while it is in memory."""

    name: str
    facts: ModelFacts
    tokenizer: Tokenizer
    template: ChatTemplate
    text_bytes: int  # for keys and values
    created: int = field(default_factory=lambda: int(time.time()))
    engine: Engine | None = None
    loading: asyncio.Task[None] | None = None
    users: int = 0  # requests that want it
    holders: int = 0  # those of them that have it
    used: float = 0.0

    @property
    def size(self) -> int:
        """Bytes that it takes, texts under way included."""
        return self.facts.size + self.text_bytes

    @property
    def context(self) -> int:
        """Tokens of prompt and answer."""
        return self.facts.config.max_position_embeddings

    @cached_property
    def digest(self) -> str:
        """Of the directory: by its manifest, or if it has none by all its files.

        Raises:
            ApiError: 503, it is gone.
        """
        if not self.facts.directory.is_dir():
            raise ApiError(503, f"the files of {self.name} are gone", None, "model_not_loaded", 30)
        manifest = read_manifest(self.facts.directory)
        return f"sha256:{manifest.digest if manifest is not None else digest_path(self.facts.directory)}"

    def lineage(self) -> list[dict[str, object]]:
        """What it was made from, nearest first; empty if nothing is recorded."""
        try:
            links = chain(self.facts.directory) if read_manifest(self.facts.directory) is not None else []
        except NeoLMError:
            return []
        return [
            {
                "stage": manifest.stage,
                "directory": place.name,
                "created": str(manifest.started),
                "details": {"digest": f"sha256:{manifest.digest}"} | dict(manifest.counts),
            }
            for place, manifest in links
        ]

    def card(self) -> str | None:
        """The model card in its directory."""
        path = self.facts.directory / "README.md"
        try:
            return path.read_text(encoding="utf-8") if path.is_file() and path.stat().st_size < 2**20 else None
        except (OSError, UnicodeDecodeError):
            return None


def named(argument: str) -> tuple[str, str]:
    """Name and place of `NAME=PLACE`, or of a place, which is called by its last part (`model` by the one before)."""
    name, equals, place = argument.partition("=")
    if equals and name and "/" not in name and not Path(argument).exists():
        return name, place
    path = Path(argument)
    if not path.is_dir():
        return argument, argument  # a hub id
    parts = [part for part in path.resolve().parts if part != path.anchor]
    while len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return (parts[-1] if parts else "model"), argument


class Shelf:
    """All models, by name."""

    def __init__(self, arguments: Sequence[str], settings: ServeConfig) -> None:
        """Look at each model; none is loaded yet.

        Raises:
            InputError: one is not a whole model, two have one name, or one alone does not fit the memory.
        """
        self._settings = settings
        self.device = choose_device(settings.device).value
        free = free_memory(self.device)
        self.memory = int(settings.memory * 2**30) if settings.memory else int(_SHARE * free)
        self.models: dict[str, Model] = {}
        for name, place in map(named, arguments):
            if name in self.models:
                raise InputError(f"serve: two models are called {name}; give them names: one={place}")
            self.models[name] = model = self._look(name, place)
            if model.size > self.memory:
                raise InputError(
                    f"serve: {name} takes {gibibytes(model.size)}, of that {gibibytes(model.text_bytes)} for texts "
                    f"under way; {gibibytes(self.memory)} are for models. Rounded weights (--quantize int4) take less"
                )
        self.preloading = settings.preload
        self._freed = asyncio.Event()  # somebody has stopped using a model
        self._loading = asyncio.Lock()
        self._pressed: Model | None = None  # it waits until others have room for it
        self._settled = asyncio.Event()  # nobody does

    def _look(self, name: str, place: str) -> Model:
        settings = self._settings
        facts = model_facts(place, self.device, settings.dtype, settings.quantize)
        tokenizer = load_tokenizer(facts.directory)
        if tokenizer.size > facts.config.vocab_size:
            raise InputError(f"{place}: the tokenizer has more tokens than the model embeds")
        # Rounded models keep keys and values in half as many bits, which is not known before they are loaded.
        context = blocks_for(facts.config.max_position_embeddings) * block_bytes(facts.config, torch.float32)
        return Model(
            name,
            facts,
            tokenizer,
            load_chat_template(facts.directory, tokenizer),
            max(int(settings.text_memory * 2**30), context),
        )

    @property
    def loaded(self) -> list[Model]:
        """Those in memory."""
        return [model for model in self.models.values() if model.engine is not None]

    def find(self, name: str) -> Model:
        """A model by its name.

        Raises:
            ApiError: 404, there is none.
        """
        model = self.models.get(name)
        if model is None:
            there = ", ".join(list(self.models)[:10])
            words = f"the model '{name[:200]}' does not exist here; {there} {'is' if len(self.models) == 1 else 'are'}"
            raise ApiError(404, words, "model", "model_not_found")
        return model

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[Engine]:
        """The engine of a model, which stays in memory inside the block.

        Raises:
            ApiError: 404, there is none; 503, it cannot be loaded.
        """
        model = self.find(name)
        model.users += 1
        try:
            if model.engine is not None and model.engine.closed:  # it failed, and those it answered have heard of it
                model.engine = None
            while model.engine is None or (self._pressed is not None and self._pressed is not model):
                if model.engine is not None:  # somebody waits for room: those who come now stand behind them
                    await self._settled.wait()
                    continue
                if model.loading is None:  # a task of its own: who asked first may leave first
                    model.loading = asyncio.create_task(self._load(model))
                    model.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.shield(model.loading)
            model.holders += 1
            try:
                yield model.engine
            finally:
                model.holders -= 1
        finally:
            model.users -= 1
            model.used = time.monotonic()
            self._freed.set()

    async def preload(self) -> None:
        """Load models in their order, as long as they fit, and have each write a little, for which kernels compile."""
        try:
            for model in self.models.values():
                if sum(other.size for other in self.loaded) + model.size > self.memory:
                    continue
                try:
                    async with self.using(model.name) as engine:
                        await asyncio.to_thread(_warm, engine, model.tokenizer.eos_token_id)
                except Exception as error:  # whoever asks for it is told again
                    say(f"serve: {model.name}: {error}")
        finally:
            self.preloading = False

    async def _load(self, model: Model) -> None:
        try:
            async with self._loading:
                await asyncio.to_thread(self._look, model.name, str(model.facts.directory))  # nobody goes for a wreck
                await self._make_room(model)
                model.engine = await asyncio.to_thread(self._read, model)
        except ApiError:
            raise
        except NeoLMError as error:
            say(f"serve: {model.name} cannot be loaded: {error}")
            words = f"{model.name} cannot be loaded; the server's log says why"
            raise ApiError(503, words, None, "model_not_loaded", 30) from None
        finally:
            model.loading = None

    async def _make_room(self, model: Model) -> None:
        """Close models that nobody uses until this one fits, and wait for others if that is not enough.

        Raises:
            ApiError: 503, meanwhile nobody wants it any more.
        """
        try:
            await self._press(model)
        finally:
            self._pressed = None
            self._settled.set()

    async def _press(self, model: Model) -> None:
        while sum(other.size for other in self.loaded) + model.size > self.memory:
            if not model.users:
                raise ApiError(503, f"nobody waits for {model.name} any more", None, "model_not_loaded", 30)
            idle = sorted((other for other in self.loaded if not other.holders), key=lambda other: other.used)
            if idle:
                engine, idle[0].engine = idle[0].engine, None
                assert engine is not None
                say(f"serve: {idle[0].name} makes room for {model.name}")
                await asyncio.to_thread(engine.close)
            else:
                self._pressed = model
                self._settled.clear()
                self._freed.clear()
                await self._freed.wait()

    def _read(self, model: Model) -> Engine:
        settings, began = self._settings, time.monotonic()
        decoder = load_model(model.facts.directory, self.device, settings.dtype, settings.quantize)
        check_tokenizer(decoder, model.tokenizer)
        engine = Engine(
            decoder,
            model.tokenizer.eos_token_id,
            model.tokenizer.size,
            memory=model.text_bytes,
            max_running=settings.together,
            max_waiting=settings.queue,
            strict=settings.strict,
        )
        say(f"serve: {model.name} is loaded, {gibibytes(model.facts.size)} in {time.monotonic() - began:.1f} s")
        return engine.start()

    def close(self) -> None:
        """End all engines; what is under way is cancelled."""
        for model in self.loaded:
            assert model.engine is not None
            model.engine.close()
            model.engine = None


def _warm(engine: Engine, token: int) -> None:
    """Write two tokens."""
    listener = Listener()
    with suppress(RefusedError):
        engine.submit([token], generation_config(max_new_tokens=2), listener)
        list(listener)
