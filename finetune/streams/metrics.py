"""The metrics of a consumer in Prometheus's text format, at a port of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server

from finetune.errors import UserError

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class StreamMetrics:
    """Counts and gauges of one consumer; thread-safe. Labels have few values: topics, partitions and words of ours."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._messages = Counter(
            "finetune_stream_messages_total",
            "Messages that are done: results acknowledged, dead letters, or done by a previous owner of the partition.",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self._errors = Counter(
            "finetune_stream_errors_total",
            "Dead letters and failed calls, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self._audio = Counter(
            "finetune_stream_audio_seconds_total", "Seconds of audio transcribed.", ("kind",), registry=self.registry
        )
        self._rebalances = Counter(
            "finetune_stream_rebalances_total",
            "Partitions given, revoked and lost.",
            ("change",),
            registry=self.registry,
        )
        self._wait = Histogram(
            "finetune_stream_seconds",
            "Seconds from the time of a recording's message to its result.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._lag = Gauge(
            "finetune_stream_lag_messages", "Messages not read yet.", ("topic", "partition"), registry=self.registry
        )
        self._lagging: set[tuple[str, int]] = set()
        self._open = Gauge("finetune_stream_open_messages", "Recordings and sessions begun.", registry=self.registry)
        self._sessions = Gauge("finetune_stream_live_sessions", "Open live sessions.", registry=self.registry)
        self._bytes = Gauge("finetune_stream_held_bytes", "Bytes of messages and results held.", registry=self.registry)
        self._paused = Gauge("finetune_stream_paused", "1 while no messages are read.", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def message(
        self, kind: Literal["recording", "chunk", "unknown"], outcome: Literal["result", "dead_letter", "repeated"]
    ) -> None:
        """A message is done."""
        self._messages.labels(kind, outcome).inc()

    def error(self, reason: str) -> None:
        """Something has failed, for a reason out of a few words."""
        self._errors.labels(reason).inc()

    def audio(self, kind: Literal["recording", "live"], seconds: float) -> None:
        """Audio was transcribed, or given to a live session."""
        self._audio.labels(kind).inc(seconds)

    def waited(self, seconds: float) -> None:
        """A result is there so long after its message."""
        self._wait.observe(max(0.0, seconds))

    def rebalance(self, change: Literal["given", "revoked", "lost"], partitions: int) -> None:
        """Partitions have come or gone."""
        self._rebalances.labels(change).inc(partitions)

    def state(self, *, units: int, sessions: int, held_bytes: int, paused: bool) -> None:
        """What is held now."""
        self._open.set(units)
        self._sessions.set(sessions)
        self._bytes.set(held_bytes)
        self._paused.set(paused)

    def lag(self, behind: Mapping[tuple[str, int], int]) -> None:
        """Messages not read yet of each partition; others are not ours any more."""
        for (topic, partition), messages in behind.items():
            self._lag.labels(topic, str(partition)).set(messages)
        for topic, partition in self._lagging - set(behind):
            self._lag.remove(topic, str(partition))
        self._lagging = set(behind)


def serve_metrics(metrics: StreamMetrics, host: str, port: int) -> Callable[[], None]:
    """Serve metrics at `http://HOST:PORT/metrics` in a thread; returns what ends it. Raises UserError."""
    try:
        server, thread = start_http_server(port, host, registry=metrics.registry)
    except (OSError, OverflowError) as error:
        raise UserError(f"Metrics can't be served at {host}:{port} ({error}): give another --metrics-port.") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5.0)

    return stop
