"""The drift score: how often it is wrong on simulated speech, and what it finds."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import kolmogi
from scipy.stats import binom, ks_2samp

from finetune.inference.utterance_statistics import Distribution, UtteranceStatistics
from finetune.serving.drift import FALSE_ALARM_RATE, WINDOW, DriftMonitor, measure_distance

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def draw_confidences(rng: np.random.Generator, number: int) -> NDArray[np.float64]:
    """Mean confidences of utterances: 0.90 with a standard deviation of 0.07, skewed as they are."""
    return rng.beta(14, 1.6, number)


def draw_blank_ratios(rng: np.random.Generator, number: int) -> NDArray[np.float64]:
    """Blank ratios, of which a tenth is 1: utterances without words."""
    return np.where(rng.random(number) < 0.1, 1.0, rng.beta(30, 20, number))


def monitor_split(rng: np.random.Generator, utterances: int) -> DriftMonitor:
    """A monitor with the statistics of a simulated validation split."""
    return DriftMonitor(
        UtteranceStatistics(
            confidence=Distribution.measure(draw_confidences(rng, utterances).tolist()),
            blank_ratio=Distribution.measure(draw_blank_ratios(rng, utterances).tolist()),
        )
    )


def hear(
    monitor: DriftMonitor, rng: np.random.Generator, utterances: int = WINDOW, less: float = 0.0, scale: float = 1.0
) -> None:
    confidences = np.maximum(draw_confidences(rng, utterances) - less, 0.0)
    for confidence, blank_ratio in zip(confidences, draw_blank_ratios(rng, utterances) * scale, strict=True):
        monitor.add(float(confidence), float(blank_ratio))


@pytest.mark.parametrize("utterances", [60, 1000])
def test_the_false_alarm_rate_holds(utterances: int) -> None:
    """Each window has a validation split of its own; the bounds are wrong once in 10,000 seeds if the rate is right."""
    rng, windows = np.random.default_rng(3), 1500
    scores = []
    for _ in range(windows):
        monitor = monitor_split(rng, utterances)
        hear(monitor, rng)
        scores.append(list(monitor.scores.values()))
        assert monitor.score == max(scores[-1])
    found = np.array(scores)  # (windows, 2)
    assert (found > 1).any(axis=1).sum() <= binom.ppf(0.9999, windows, FALSE_ALARM_RATE)
    # Few windows are above 1, so the same distribution is also looked at where there are more: at 5 % for each value.
    often = found > kolmogi(0.05) / kolmogi(FALSE_ALARM_RATE / 2)
    assert (often.sum(axis=0) <= binom.ppf(0.9999, windows, 0.05)).all()
    assert (often.sum(axis=0) >= binom.ppf(0.0001, windows, 0.02)).all()


@pytest.mark.parametrize(("less", "utterances", "share"), [(0.05, 100, 0.9), (0.05, 300, 0.98), (0.1, 60, 0.98)])
def test_a_fall_of_the_confidences_is_found(less: float, utterances: int, share: float) -> None:
    rng, windows = np.random.default_rng(4), 100
    found = 0
    for _ in range(windows):
        monitor = monitor_split(rng, utterances)
        hear(monitor, rng, less=less)
        found += monitor.scores["confidence"] > 1
    assert found >= share * windows


def test_fewer_blanks_are_found_and_the_end_of_the_drift_too() -> None:
    rng = np.random.default_rng(5)
    monitor = monitor_split(rng, 300)
    hear(monitor, rng, scale=0.7)
    assert monitor.scores["blank_ratio"] > 2 and monitor.scores["confidence"] < 1
    hear(monitor, rng, WINDOW - 1)
    assert monitor.score > 2  # The window is not complete.
    hear(monitor, rng, 1)
    assert monitor.score < 1


@pytest.mark.parametrize("draw", [draw_confidences, draw_blank_ratios])
def test_the_distance_is_that_of_kolmogorov_and_smirnov(draw: Draw) -> None:
    """With 101 utterances the quantiles are the values, and interpolation changes the distance by at most 1/101."""
    rng = np.random.default_rng(6)
    for _ in range(50):
        values, others = draw(rng, 80), draw(rng, 101)
        reference = Distribution.measure(others.tolist())
        assert reference is not None
        assert measure_distance(values, reference) == pytest.approx(ks_2samp(values, others).statistic, abs=1 / 100)


def test_steps_of_the_reference() -> None:
    halves = Distribution(7, (0.0,) * 51 + (1.0,) * 50)
    assert measure_distance(np.array([0.0, 1.0]), halves) == pytest.approx(0, abs=0.011)
    assert measure_distance(np.array([0.0]), halves) == pytest.approx(0.5, abs=0.011)
    assert measure_distance(np.array([1.0]), halves) == pytest.approx(0.5, abs=0.011)
    always = Distribution(7, (0.5,) * 101)
    assert measure_distance(np.array([0.5]), always) == 0
    assert measure_distance(np.array([0.4]), always) == measure_distance(np.array([0.6]), always) == 1


def test_without_a_reference_or_a_window_there_is_no_score() -> None:
    rng = np.random.default_rng(7)
    monitor = DriftMonitor(None)
    hear(monitor, rng)
    assert monitor.scores == {} and math.isnan(monitor.score)
    monitor = DriftMonitor(UtteranceStatistics(Distribution.measure(rng.random(100).tolist()), None))
    for _ in range(WINDOW):
        assert monitor.scores == {} and math.isnan(monitor.score)
        monitor.add(float(rng.random()), 0.5)
    assert list(monitor.scores) == ["confidence"]


def test_a_value_that_an_utterance_lacks_is_left_out() -> None:
    monitor = monitor_split(np.random.default_rng(8), 100)
    for _ in range(WINDOW):
        monitor.add(None, 0.6)
    assert list(monitor.scores) == ["blank_ratio"]


def test_threads_share_a_monitor() -> None:
    """No value is lost or counted twice: each of 50 windows is complete with its last value."""
    monitor = DriftMonitor(UtteranceStatistics(Distribution(100, (0.5,) * 101), None))

    def add_many(value: float) -> None:
        for _ in range(WINDOW * 50 // 4 - 1):
            monitor.add(value, None)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add_many, [0.5] * 4))
    assert monitor.score == 0
    for _ in range(3):
        monitor.add(0.4, None)
    assert monitor.score == 0
    monitor.add(0.4, None)
    assert 0 < monitor.score < 1
