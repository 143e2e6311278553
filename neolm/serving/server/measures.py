"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from neolm.serving.server.shelf import Shelf

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Measures:
    """Counters and histograms of one server."""

    def __init__(self, shelf: Shelf) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_Engines(shelf))
        self.requests = Counter(
            "neolm_requests", "Requests answered.", ["method", "path", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "neolm_request_seconds", "Time to the last byte.", ["path"], buckets=_SECONDS, registry=self._registry
        )
        self.first = Histogram(
            "neolm_first_token_seconds",
            "Time to the first token.",
            ["model"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.tokens = Counter(
            "neolm_tokens", "Tokens of prompts and answers.", ["model", "kind"], registry=self._registry
        )
        self.cancelled = Counter(
            "neolm_cancelled", "Answers that nobody waited for to the end.", ["model"], registry=self._registry
        )

    def page(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Engines(Collector):
    """The state of the models at the moment of asking."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def collect(self) -> Iterator[Metric]:
        loaded = GaugeMetricFamily("neolm_model_loaded", "Whether a model is in memory.", labels=["model"])
        waiting = GaugeMetricFamily("neolm_requests_waiting", "Texts that wait for memory.", labels=["model"])
        running = GaugeMetricFamily("neolm_requests_running", "Texts that are read or written.", labels=["model"])
        free = GaugeMetricFamily("neolm_pages_free", "Pages for keys and values nobody holds.", labels=["model"])
        for model in self._shelf.models.values():
            engine = model.engine
            loaded.add_metric([model.name], engine is not None)
            if engine is not None:
                waiting.add_metric([model.name], engine.num_waiting)
                running.add_metric([model.name], engine.num_running)
                free.add_metric([model.name], engine.scheduler.block_manager.num_free)
        yield from (loaded, waiting, running, free)
