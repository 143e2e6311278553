"""What the server can serve: a `Servable`, and its first kind, a decoder that generates text."""

from __future__ import annotations

import math
import time
from functools import cached_property
from typing import Protocol

import torch

from neolm.core.files import digest_path
from neolm.core.manifest import chain, read_manifest
from neolm.generation.config import generation_config
from neolm.generation.generate import check_tokenizer
from neolm.generation.kv_cache import block_bytes, blocks_for, fitting_context
from neolm.models.hf import load_decoder, open_model
from neolm.serving.engine import Engine
from neolm.serving.request import Listener
from neolm.serving.server.errors import ApiError
from neolm.serving.server.job_queue import JobQueue
from neolm.serving.server.response_schema import Link, ModelCard, ModelEntry
from neolm.serving.server.settings import ServeConfig
from neolm.tokenizer.chat import load_chat_template
from neolm.tokenizer.tokenizer import load_tokenizer


class Servable(Protocol):
    """A model that the model pool can load and unload."""

    name: str
    kind: str

    @property
    def size(self) -> int:
        """Bytes of memory that it takes while it is loaded."""

    @property
    def failed(self) -> bool:
        """Whether it is loaded but cannot serve any more; the pool loads it again."""

    def check(self) -> None:
        """Raise an `InputError` if the files are no longer complete; called before memory is freed for it."""

    def start(self) -> None:
        """Load it. Called in a thread; raises a `NeoLMError` if that fails."""

    def close(self) -> None:
        """Free its memory."""


class GenerationModel:
    """A decoder with its tokenizer, chat template and, while it is loaded, its engine."""

    kind = "generate"

    def __init__(
        self, name: str, path: str, device: str, settings: ServeConfig, memory: float = math.inf, sharing: int = 1
    ) -> None:
        """Read the headers of the files; nothing is loaded. Raises `InputError` if the model is not complete.

        A context that does not fit into `memory` (bytes for all models) is limited to what fits into an equal share
        of it for each of `sharing` models, so that one does not always evict the others.
        """
        self.name, self._settings, self._device = name, settings, device
        self.facts = open_model(path, device, settings.dtype, settings.quantize)
        config = self.facts.decoder_config
        self.tokenizer = load_tokenizer(self.facts.directory, lossless=True)
        check_tokenizer(config, self.tokenizer)
        self.end_token_ids = frozenset((self.tokenizer.eos_token_id, *config.end_tokens))
        self.template = load_chat_template(self.facts.directory, self.tokenizer)
        # Quantised models have a KV cache of half the size, which is not known before they are loaded.
        dtype, self.limited_because = torch.float32, ""
        self.context = min(settings.context or 0, config.max_position_embeddings)
        if settings.context is None:
            left = memory - self.facts.size
            self.context, self.limited_because = fitting_context(config, dtype, left)
            if self.limited_because:
                share = memory / sharing - self.facts.size
                self.context, self.limited_because = fitting_context(config, dtype, share if share > 0 else left)
        one_text = blocks_for(self.context) * block_bytes(config, dtype)
        self._kv_cache_bytes = max(int(settings.text_memory * 2**30), one_text)
        self.size = self.facts.size + self._kv_cache_bytes
        self.created = int(time.time())
        self.engine: Engine | None = None
        self.jobs = JobQueue(settings.queue)
        self.reading = JobQueue(settings.queue)  # of files: the digest of a large directory takes a while

    @property
    def failed(self) -> bool:
        """Whether the engine stopped because of an error."""
        return self.engine is not None and self.engine.closed

    def check(self) -> None:
        """Raise an `InputError` if the directory is no longer a complete model."""
        GenerationModel(self.name, str(self.facts.directory), self._device, self._settings)

    def start(self) -> None:
        """Load the weights, start the engine and generate two tokens, which compiles the kernels."""
        settings = self._settings
        decoder = load_decoder(self.facts.directory, self._device, settings.dtype, settings.quantize)
        check_tokenizer(decoder.config, self.tokenizer)
        engine = Engine(
            decoder,
            self.tokenizer.eos_token_id,
            self.tokenizer.size,
            memory=self._kv_cache_bytes,
            max_running=settings.together,
            max_waiting=settings.queue,
            strict=settings.strict,
            context=self.context,
        ).start()
        listener = Listener()
        engine.submit([self.tokenizer.eos_token_id], generation_config(max_new_tokens=2), listener)
        list(listener)
        self.engine = engine

    def close(self) -> None:
        """Stop the engine; its requests are cancelled."""
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.close()

    @cached_property
    def digest(self) -> str:
        """Digest of the directory, from its manifest if it has one. Raises `ApiError` (503) if the files are gone."""
        if not self.facts.directory.is_dir():
            raise ApiError(503, f"the files of {self.name} are gone", None, "model_not_loaded", 30)
        manifest = read_manifest(self.facts.directory)
        return f"sha256:{manifest.digest if manifest is not None else digest_path(self.facts.directory)}"

    def entry(self) -> ModelEntry:
        """The model as one entry of `/v1/models`."""
        return ModelEntry(
            id=self.name,
            created=self.created,
            context=self.context,
            family=self.facts.config.family,
            parameters=self.facts.parameters,
            loaded=self.engine is not None,
            chat_template=self.template.kind,
        )

    def card(self) -> ModelCard:
        """All that is known about the model; reads files. Raises `ApiError` (503) if the files are gone."""
        facts = self.facts
        return ModelCard(
            id=self.name,
            digest=self.digest,
            family=facts.config.family,
            parameters=facts.parameters,
            context=self.context,
            dtype=str(facts.dtype).removeprefix("torch."),
            quantize={8: "int8", 4: "int4"}.get(facts.bits or 0),  # type: ignore[arg-type]
            config=facts.config.model_dump(mode="json"),
            card=self._readme(),
            lineage=[
                Link(
                    stage=manifest.stage,
                    directory=place.name,
                    created=str(manifest.started),
                    details={"digest": f"sha256:{manifest.digest}"} | dict(manifest.counts),
                )
                for place, manifest in chain(facts.directory)
            ],
        )

    def _readme(self) -> str | None:
        path = self.facts.directory / "README.md"
        try:
            return path.read_text(encoding="utf-8") if path.stat().st_size < 2**20 else None
        except (OSError, UnicodeDecodeError):
            return None
