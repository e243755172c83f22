"""What Prometheus is told of a server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts of one server."""

    def __init__(self, num_open: Callable[[], int]) -> None:
        """
        Args:
          num_open: requests that wait or run now.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "nep_requests", "Answered requests", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "nep_request_seconds",
            "From a request's first byte to its last answer",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        names = ["route", "model"]
        self._images = Counter("nep_images", "Pictures made", names, registry=self._registry)
        self._cells = Counter("nep_cells", "Cells drawn", names, registry=self._registry)
        gauge = Gauge("nep_open_requests", "Requests that wait or run", registry=self._registry)
        gauge.set_function(num_open)
        ProcessCollector(registry=self._registry)  # its memory and its seconds of CPU, where the system tells

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def made(self, route: str, model: str, num_images: int, num_cells: int) -> None:
        self._images.labels(route, model).inc(num_images)
        self._cells.labels(route, model).inc(num_cells)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
