"""Metrics of a server in Prometheus' format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from neolm.serving.server.generation_model import GenerationModel
from neolm.serving.server.model_pool import ModelPool
from neolm.serving.server.servable import ServedModel

_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)  # seconds


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self, pool: ModelPool[ServedModel]) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_Engines(pool))
        self.requests = Counter("neolm_requests", "Requests.", ["method", "path", "status"], registry=registry)
        self.seconds = Histogram(
            "neolm_request_seconds", "Time to the last byte.", ["path"], buckets=_BUCKETS, registry=registry
        )
        self.first_token = Histogram(
            "neolm_first_token_seconds", "Time to the first token.", ["model"], buckets=_BUCKETS, registry=registry
        )
        self.tokens = Counter("neolm_tokens", "Tokens of prompts and answers.", ["model", "kind"], registry=registry)
        self.cancelled = Counter(
            "neolm_cancelled", "Answers cancelled because the client disconnected.", ["model"], registry=registry
        )
        self.moderation = Counter(
            "neolm_moderation_decisions",
            "Decisions about prompts and answers: what the policy says, whatever its mode.",
            ["policy", "mode", "category", "side", "action"],
            registry=registry,
        )
        self.moderation_failures = Counter(
            "neolm_moderation_failures", "Prompts and parts of answers that could not be judged.", registry=registry
        )
        self.moderation_seconds = Histogram(
            "neolm_moderation_seconds", "Time to judge a prompt or a part.", buckets=_BUCKETS, registry=registry
        )


class _Engines(Collector):
    """Gauges of the models, read when metrics are requested."""

    def __init__(self, pool: ModelPool[ServedModel]) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily("neolm_model_loaded", "Whether a model is in memory.", labels=["model"])
        waiting = GaugeMetricFamily("neolm_requests_waiting", "Waiting requests of an engine.", labels=["model"])
        running = GaugeMetricFamily("neolm_requests_running", "Running requests of an engine.", labels=["model"])
        free = GaugeMetricFamily("neolm_pages_free", "Free blocks of the KV cache.", labels=["model"])
        for model in self._pool.models.values():
            engine = model.engine
            loaded.add_metric([model.name], engine is not None)
            if engine is not None:
                waiting.add_metric([model.name], engine.num_waiting)
                running.add_metric([model.name], engine.num_running)
            if isinstance(model, GenerationModel) and model.engine is not None:
                free.add_metric([model.name], model.engine.scheduler.block_manager.num_free)
        yield from (loaded, waiting, running, free)
