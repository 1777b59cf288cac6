"""Counts and times of the server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request, Response
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from patchword.serve.server import router, server_of

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)

routes = router("health")


class Metrics:
    """Counts of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.answered = 0
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "patchword_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "patchword_request_seconds", "From the first byte to the answer.", ["route"],
            registry=self.registry,
        )  # fmt: skip
        self._batch = Histogram(
            "patchword_batch_items", "Items that a model was given at once.", ["model"],
            buckets=BATCH_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._compute = Histogram(
            "patchword_batch_seconds", "A model took for a batch.", ["model"],
            registry=self.registry,
        )  # fmt: skip
        self._working = Gauge(
            "patchword_items", "Images and texts that are worked on.", registry=self.registry
        )
        self._open = Gauge("patchword_models_open", "Models in memory.", registry=self.registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.answered += 1
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def of_model(self, name: str) -> Callable[[int, float], None]:
        """A function that counts the batches of a model."""
        batch_items, batch_seconds = self._batch.labels(name), self._compute.labels(name)

        def observe(items: int, seconds: float) -> None:
            batch_items.observe(items)
            batch_seconds.observe(seconds)

        return observe

    def watch(self, working: Callable[[], float], loaded: Callable[[], float]) -> None:
        """Read the gauges from these functions: items in work, and models in memory."""
        self._working.set_function(working)
        self._open.set_function(loaded)


@routes.get("/metrics", summary="Counts for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    counts: Metrics = request.app.state.metrics
    server = server_of(request)
    content = await server.decoder.run(lambda: generate_latest(counts.registry))
    return Response(content, media_type=CONTENT_TYPE_LATEST)
