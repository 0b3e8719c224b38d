"""The metrics of a service in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune.inference.utterance_statistics import UtteranceStatistics
from finetune.resources.machine import measure_memory
from finetune.serving.drift import DriftMonitor

# Those of OpenTelemetry's semantic conventions for HTTP, and longer ones: a recording takes minutes.
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300)
# A method that is none of these is counted as _OTHER, as in the conventions: clients can send any word.
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
_WAIT_SECONDS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
_BATCH_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_REAL_TIME_FACTORS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_LAG_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 1)
_BLANK_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 1)

FeedbackFailure = Literal["key", "store"]


class Metrics:
    """The metrics of a service and its models; thread-safe.

    Those of HTTP have the names and labels of OpenTelemetry's semantic conventions, those of the process the names of
    Prometheus's own clients. Each label has few values: routes are templates, and models are those that are loaded.
    """

    def __init__(self, models: Iterable[str]) -> None:
        """`models` are the names of the models; `watch` says what a model's utterances are compared with."""
        self._registry = CollectorRegistry()
        self._requests = self._histogram(
            "http_server_request_duration_seconds",
            "Seconds from a request to the end of its answer; status 101 is a WebSocket.",
            _REQUEST_SECONDS,
            ("http_request_method", "http_route", "http_response_status_code"),
        )
        self._active = self._gauge("http_server_active_requests", "Requests that are being answered.")
        self._audio = self._counter(
            "finetune_audio_seconds_total", "Seconds of audio that were transcribed.", ("model", "kind")
        )
        self._queue = self._gauge("finetune_queue_length", "Recordings that wait or are computed.")
        self._wait = self._histogram(
            "finetune_queue_wait_seconds", "Seconds that a recording waited for its computation.", _WAIT_SECONDS
        )
        self._batch = self._histogram(
            "finetune_batch_seconds", "Seconds that the computation of a batch took.", _BATCH_SECONDS
        )
        self._batch_audio = self._counter("finetune_batch_audio_seconds_total", "Seconds of audio in batches.")
        self._factor = self._histogram(
            "finetune_real_time_factor", "Seconds of computation for a second of audio of a batch.", _REAL_TIME_FACTORS
        )
        self._sessions = self._gauge("finetune_live_sessions", "Open live sessions.", ("model",))
        self._lag = self._histogram(
            "finetune_live_lag_seconds", "Seconds of audio of a live session that wait for computation.", _LAG_SECONDS
        )
        self._confidence = self._histogram(
            "finetune_utterance_confidence", "Mean confidence of the words of an utterance.", _CONFIDENCES, ("model",)
        )
        self._blank_ratio = self._histogram(
            "finetune_utterance_blank_ratio",
            "Share of the frames of an utterance whose best symbol is the blank.",
            _BLANK_RATIOS,
            ("model",),
        )
        self._feedback_failures = self._counter(
            "finetune_feedback_failures_total",
            "Requests that the feedback store failed: its key was changed, or its database or audio can't be used.",
            ("reason",),
        )
        self._gauge("finetune_memory_limit_bytes", "Memory that the service may use.").set(measure_memory().total)
        ProcessCollector(registry=self._registry)
        self._monitors = {model: DriftMonitor(None) for model in models}
        self._registry.register(_DriftCollector(self._monitors))
        for reason in get_args(FeedbackFailure):
            self._feedback_failures.labels(reason)
        for model in self._monitors:  # So that a rate is known from the first second on.
            self._sessions.labels(model)
            for kind in ("file", "live"):
                self._audio.labels(model, kind)

    def watch(self, model: str, statistics: UtteranceStatistics | None) -> None:
        """Compare a model's further utterances with its statistics; again after it was loaded again."""
        assert model in self._monitors
        self._monitors[model] = DriftMonitor(statistics)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """An HTTP request has ended; `route` is the template of its path."""
        self._requests.labels(method if method in _METHODS else "_OTHER", route, str(status)).observe(seconds)

    def active(self, change: Literal[1, -1]) -> None:
        """A request begins, 1, or ends, -1."""
        self._active.inc(change)

    def audio(self, model: str, kind: Literal["file", "live"], seconds: float) -> None:
        """Audio was transcribed, or fed to a live session."""
        assert model in self._monitors
        self._audio.labels(model, kind).inc(seconds)

    def queued(self, recordings: int) -> None:
        """So many recordings wait or are computed now."""
        self._queue.set(recordings)

    def waited(self, seconds: float) -> None:
        """The computation of a recording begins after it waited."""
        self._wait.observe(seconds)

    def batch(self, audio_seconds: float, seconds: float) -> None:
        """A batch was computed."""
        self._batch.observe(seconds)
        self._batch_audio.inc(audio_seconds)
        if audio_seconds > 0:
            self._factor.observe(seconds / audio_seconds)

    def live_sessions(self, model: str, sessions: int) -> None:
        """A model has so many live sessions now."""
        assert model in self._monitors
        self._sessions.labels(model).set(sessions)

    def live_lag(self, seconds: float) -> None:
        """The audio of a live session that is not computed yet."""
        self._lag.observe(seconds)

    def utterance(self, model: str, confidence: float | None, blank_ratio: float | None) -> None:
        """An utterance was transcribed: see `DriftMonitor.add`."""
        assert model in self._monitors
        if confidence is not None:
            self._confidence.labels(model).observe(confidence)
        if blank_ratio is not None:
            self._blank_ratio.labels(model).observe(blank_ratio)
        self._monitors[model].add(confidence, blank_ratio)

    def feedback_failed(self, reason: FeedbackFailure) -> None:
        """The feedback store could not be used for a request."""
        self._feedback_failures.labels(reason).inc()

    def drifts(self, model: str) -> bool:
        """Whether the last complete window of a model's utterances differs from its validation split."""
        return self._monitors[model].score > 1

    def render(self) -> bytes:
        """All metrics in Prometheus's text format, version 0.0.4."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, about, labels, registry=self._registry)

    def _gauge(self, name: str, about: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, about, labels, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, about, labels, buckets=buckets, registry=self._registry)


class _DriftCollector(Collector):
    """The drift scores of models, as they are when they are asked for; a model without a score is not listed."""

    def __init__(self, monitors: Mapping[str, DriftMonitor]) -> None:
        self._monitors = monitors

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "finetune_drift_score",
            "Distance of confidence or blank ratio from those of the validation split; above 1 is a drift.",
            labels=("model", "value"),
        )
        for model, monitor in self._monitors.items():
            for value, score in monitor.scores.items():
                family.add_metric((model, value), score)
        yield family
