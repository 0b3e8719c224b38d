"""The metrics of a service, as Prometheus reads them."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from finetune.inference.utterance_statistics import Distribution, UtteranceStatistics
from finetune.serving.drift import WINDOW
from finetune.serving.metrics import Metrics


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The value of each sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def find(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((name, frozenset(labels.items())))


def test_requests_have_the_names_of_opentelemetry() -> None:
    metrics = Metrics(["small"])
    metrics.active(1)
    metrics.active(1)
    metrics.active(-1)
    metrics.request("POST", "/v1/audio/transcriptions", 200, 0.3)
    metrics.request("POST", "/v1/audio/transcriptions", 200, 40)
    metrics.request("BREW", "none", 404, 0.001)
    assert find(metrics, "http_server_active_requests") == 1
    name = "http_server_request_duration_seconds"
    labels = {"http_route": "/v1/audio/transcriptions", "http_response_status_code": "200"}
    labels["http_request_method"] = "POST"
    assert find(metrics, f"{name}_count", **labels) == 2
    assert find(metrics, f"{name}_sum", **labels) == pytest.approx(40.3)
    assert find(metrics, f"{name}_bucket", **labels, le="0.5") == 1
    assert find(metrics, f"{name}_bucket", **labels, le="60.0") == 2
    labels = {"http_route": "none", "http_response_status_code": "404", "http_request_method": "_OTHER"}
    assert find(metrics, f"{name}_count", **labels) == 1


def test_speech() -> None:
    metrics = Metrics(["small", "large"])
    assert find(metrics, "finetune_audio_seconds_total", model="large", kind="live") == 0
    metrics.audio("small", "file", 2.5)
    metrics.audio("small", "file", 1.0)
    metrics.queued(3)
    metrics.waited(4.0)
    metrics.batch(10.0, 2.0)
    metrics.batch(0.0, 0.5)
    metrics.live_sessions("large", 2)
    metrics.live_lag(0.4)
    metrics.utterance("small", 0.93, 0.7)
    metrics.utterance("small", None, 1.0)
    expected = {
        "finetune_queue_length": 3,
        "finetune_queue_wait_seconds_sum": 4,
        "finetune_batch_seconds_sum": 2.5,
        "finetune_batch_audio_seconds_total": 10,
        "finetune_real_time_factor_count": 1,
        "finetune_real_time_factor_sum": 0.2,
        "finetune_live_lag_seconds_sum": 0.4,
    }
    assert {name: find(metrics, name) for name in expected} == expected
    assert find(metrics, "finetune_audio_seconds_total", model="small", kind="file") == 3.5
    assert find(metrics, "finetune_live_sessions", model="large") == 2
    assert find(metrics, "finetune_utterance_confidence_count", model="small") == 1
    assert find(metrics, "finetune_utterance_blank_ratio_count", model="small") == 2
    assert (find(metrics, "finetune_memory_limit_bytes") or 0) > (find(metrics, "process_resident_memory_bytes") or 0)


def test_drift_is_that_of_the_model_until_it_is_loaded_again() -> None:
    metrics, rng = Metrics(["small", "large"]), np.random.default_rng(0)
    for model in ("small", "large"):
        metrics.watch(model, UtteranceStatistics(Distribution.measure(rng.beta(9, 1, 200).tolist()), None))
    assert b"finetune_drift_score{" not in metrics.render()
    for _ in range(WINDOW):
        metrics.utterance("small", rng.beta(9, 1), 0.5)
        metrics.utterance("large", rng.beta(9, 3), 0.5)
    score = partial(find, metrics, "finetune_drift_score", value="confidence")
    small, large = score(model="small"), score(model="large")
    assert small is not None and large is not None and small < 1 < large
    metrics.watch("large", None)
    assert (score(model="small"), score(model="large")) == (small, None)


def test_models_that_are_not_loaded_are_no_labels() -> None:
    metrics = Metrics(["small"])
    for call in (
        lambda: metrics.audio("../../x", "file", 1),
        lambda: metrics.utterance("other", 0.5, 0.5),
        lambda: metrics.live_sessions("other", 1),
        lambda: metrics.watch("other", None),
    ):
        with pytest.raises(AssertionError):
            call()
    assert set(re.findall(r'model="([^"]*)"', metrics.render().decode())) == {"small"}


def test_two_services_of_a_process_have_their_own_metrics() -> None:
    one, two = Metrics(["small"]), Metrics(["small"])
    one.queued(5)
    assert (find(one, "finetune_queue_length"), find(two, "finetune_queue_length")) == (5, 0)
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith(("finetune", "http"))]


def test_threads_count_together_while_another_reads() -> None:
    metrics = Metrics(["small"])
    metrics.watch("small", UtteranceStatistics(Distribution(100, (0.5,) * 101), None))

    def work(_: int) -> None:
        for _ in range(500):
            metrics.active(1)
            metrics.utterance("small", 0.5, 0.5)
            metrics.active(-1)

    with ThreadPoolExecutor(5) as threads:
        working = [threads.submit(work, number) for number in range(4)]
        while not all(each.done() for each in working):
            assert metrics.render().endswith(b"\n")
        for each in working:
            each.result()
    assert find(metrics, "http_server_active_requests") == 0
    assert find(metrics, "finetune_utterance_confidence_count", model="small") == 2000
    assert find(metrics, "finetune_drift_score", model="small", value="confidence") == 0
