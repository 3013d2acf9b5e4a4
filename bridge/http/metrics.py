"""Counts and gauges in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from bridge import __version__, events
from bridge.core import Core
from bridge.http.relay import Relay

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "comfy_bridge"
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """Counts what the hub tells (`listen`), and asks the core for the rest when it is read (`text`)."""

    def __init__(self, core: Core, relay: Relay) -> None:
        self._core = core
        self._relay = relay
        self._registry = CollectorRegistry(auto_describe=False)
        self._jobs = Counter(f"{_PREFIX}_jobs", "Jobs that ended.", ["status", "workflow"], registry=self._registry)
        self._seconds = Histogram(
            f"{_PREFIX}_job_seconds",
            "Seconds that ended jobs spent in each status, and in total.",
            ["phase"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._requests = Counter(
            f"{_PREFIX}_http_requests", "Requests answered.", ["method", "status"], registry=self._registry
        )
        self._registry.register(_Live(self._families))

    def listen(self, event: events.Event) -> None:
        """Take an event."""
        if isinstance(event, events.JobResult):
            self._jobs.labels(str(event.document["status"]), event.workflow or "").inc()
            for phase, seconds in event.document["timings"].items():
                self._seconds.labels(phase).observe(seconds)

    def count_request(self, method: str, status: int) -> None:
        """Count an answered request."""
        known = method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"} else "other"
        self._requests.labels(known, str(status)).inc()

    def text(self) -> bytes:
        """Return everything."""
        return generate_latest(self._registry)

    def _families(self) -> Iterable[Metric]:
        queue = self._core.queue_state()
        yield _gauge("info", "The version that runs.", 1, version=__version__)
        yield _gauge("jobs_waiting", "Jobs that wait.", queue["waiting_count"])
        yield _gauge("jobs_running", "Jobs that a ComfyUI holds.", queue["running_count"])
        backends = self._core.backends()
        online = GaugeMetricFamily(f"{_PREFIX}_backend_online", "Whether a ComfyUI is there.", labels=["backend"])
        held = GaugeMetricFamily(f"{_PREFIX}_backend_jobs", "Jobs inside a ComfyUI.", labels=["backend"])
        frames = CounterMetricFamily(f"{_PREFIX}_frames_in", "Frames from a ComfyUI's websocket.", labels=["backend"])
        again = CounterMetricFamily(
            f"{_PREFIX}_reconnects", "Connections after the first, to a ComfyUI or the broker.", labels=["to"]
        )
        for backend in backends:
            online.add_metric([backend["name"]], backend["online"])
            held.add_metric([backend["name"]], backend["jobs"])
            frames.add_metric([backend["name"]], backend["frames"])
            again.add_metric([backend["name"]], max(0, backend["connects"] - 1))
        dropped = CounterMetricFamily(
            f"{_PREFIX}_frames_dropped", "Messages that slow readers of a face missed.", labels=["face"]
        )
        dropped.add_metric(["relay"], self._relay.dropped)
        mqtt = self._core.health_parts.get("mqtt")
        if mqtt is not None:
            told = mqtt()
            dropped.add_metric(["mqtt"], float(told["dropped"]))
            again.add_metric(["mqtt"], float(told["reconnects"]))
            yield _gauge("mqtt_connected", "Whether the broker is there.", float(told["connected"]))
        yield from (online, held, frames, again, dropped)
        yield _gauge("relay_clients", "Websocket clients of the relay.", self._relay.clients)
        sent = CounterMetricFamily(f"{_PREFIX}_relay_frames_sent", "Frames sent to clients of the relay.")
        sent.add_metric([], self._relay.sent)
        slow = CounterMetricFamily(f"{_PREFIX}_relay_slow_clients", "Clients of the relay dropped for not reading.")
        slow.add_metric([], self._relay.slow)
        yield from (sent, slow)


class _Live:
    def __init__(self, families: Any) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        families: Iterable[Metric] = self._families()
        return families


def _gauge(name: str, words: str, value: float, **labels: str) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", words, labels=list(labels))
    gauge.add_metric(list(labels.values()), value)
    return gauge
