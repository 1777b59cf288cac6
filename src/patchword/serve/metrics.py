"""What the server counts, for Prometheus."""

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

ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)

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
            buckets=ITEMS, registry=self.registry,
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
        """A request was answered."""
        self.answered += 1
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def of_model(self, name: str) -> Callable[[int, float], None]:
        """What counts the batches of a model."""
        items, seconds = self._batch.labels(name), self._compute.labels(name)

        def observe(count: int, spent: float) -> None:
            items.observe(count)
            seconds.observe(spent)

        return observe

    def watch(self, working: Callable[[], float], opened: Callable[[], float]) -> None:
        """Where the numbers that rise and fall are read."""
        self._working.set_function(working)
        self._open.set_function(opened)


@routes.get("/metrics", summary="Counts for Prometheus", response_class=Response)
async def metrics(request: Request) -> Response:
    counts: Metrics = request.app.state.metrics
    server = server_of(request)
    content = await server.decoder.run(lambda: generate_latest(counts.registry))
    return Response(content, media_type=CONTENT_TYPE_LATEST)
