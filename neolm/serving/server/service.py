"""The state that all routes share: settings, models, keys, feedback, metrics and log, and when the server stops."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from neolm.core.device import MEMORY_SHARE, choose_device, free_memory
from neolm.core.progress import say
from neolm.models.config import DecoderConfig
from neolm.models.hf import open_model
from neolm.models.stored_model import StoredModel
from neolm.serving.server.classify_model import HEAD, ClassifyModel
from neolm.serving.server.embedding_model import EmbeddingModel
from neolm.serving.server.event_log import EventLog
from neolm.serving.server.feedback import FeedbackStore
from neolm.serving.server.generation_model import GenerationModel
from neolm.serving.server.keys import KeyRing
from neolm.serving.server.metrics import Metrics
from neolm.serving.server.model_pool import ModelPool, model_name
from neolm.serving.server.moderation import Moderation
from neolm.serving.server.servable import ServedModel
from neolm.serving.server.settings import ServeConfig


class Service:
    """The state of one server."""

    def __init__(
        self, settings: ServeConfig, pool: ModelPool[ServedModel], keys: KeyRing, feedback: FeedbackStore | None
    ) -> None:
        self.settings, self.pool, self.keys, self.feedback = settings, pool, keys, feedback
        self.metrics, self.log = Metrics(pool), EventLog(settings.log_text)
        self.moderation = Moderation(settings, self.metrics, self.log) if settings.moderation is not None else None
        self.stop_at = math.inf  # of time.monotonic(): when the requests in progress have to end

    @property
    def stopping(self) -> bool:
        """Whether the server was told to stop."""
        return self.stop_at < math.inf

    def stop(self) -> None:
        """Accept no more requests; those in progress have `shutdown_seconds` left."""
        self.stop_at = min(self.stop_at, time.monotonic() + self.settings.shutdown_seconds)


def open_models(arguments: Sequence[str], settings: ServeConfig) -> ModelPool[ServedModel]:
    """The pool of the models that `arguments` name, each a path, a hub id or `NAME=PATH`; none is loaded yet."""
    device = choose_device(settings.device).value
    memory = settings.memory * 2**30 if settings.memory else MEMORY_SHARE * free_memory(device)
    count = len(arguments)
    models: list[ServedModel] = []
    for name, path in map(model_name, arguments):
        facts = open_model(path, device, settings.dtype, settings.quantize)
        models.append(_kind(facts)(name, facts, settings, memory, count))
    pool = ModelPool(models, int(memory))
    for model in models:
        if model.limited_because:
            say(f"serve: {model.name}: {model.limited_because}. Choose another limit by --set context=TOKENS")
    return pool


def _kind(facts: StoredModel) -> type[GenerationModel | EmbeddingModel | ClassifyModel]:
    """What a model is served as."""
    if facts.config.head == HEAD:
        return ClassifyModel
    return GenerationModel if isinstance(facts.config, DecoderConfig) else EmbeddingModel
